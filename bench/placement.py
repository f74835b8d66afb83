"""Placing steps on many agents: the index of rooms beside looking at all of them. CPU time; no database.

.venv/bin/python -m bench.placement [agents] [steps]
"""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime, timedelta

from animus_kit.clock import SystemClock
from animus_orchestrator.dispatch.fleet import Fleet
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.quota import Amount, Standing
from animus_orchestrator.domain.scheduler import Need, Room, best, take
from animus_orchestrator.domain.sharing import Waiting, distribute
from bench.report import Line, emit, rounded

PROJECTS = 20
NAIVE_STEPS = 20
"""Looked at one by one as a floor; all of them would take minutes."""


def main(arguments: list[str]) -> int:
    agents, steps = (int(a) for a in (arguments + ["5000", "1000"][len(arguments) :])[:2])
    chance = random.Random(1)
    sessions = [_session(i, chance) for i in range(agents)]
    needs = [
        Need(i, f"p{i % PROJECTS}", "default", chance.choice([500, 1000, 4000]), chance.choice([1, 2, 8]) << 30)
        for i in range(steps)
    ]
    fleet = Fleet(SystemClock(), timedelta(seconds=60))
    first = _cpu(lambda: fleet.offer(sessions))
    unchanged = _cpu(lambda: fleet.offer(sessions))
    waiting: dict[str, list[Waiting]] = {}
    for need in needs:
        waiting.setdefault(need.project, []).append(Waiting(need, datetime.now(UTC)))
    standings = {project: Standing() for project in waiting}
    rooms = fleet.offer(sessions)
    placed: list = []
    sharing = _cpu(lambda: placed.extend(distribute(waiting, standings, fleet.total, rooms, steps)))
    free = {s.agent.id: room for s in sessions if (room := s.room()) is not None}

    def naive() -> None:
        for need in needs[:NAIVE_STEPS]:
            found = best(need, free.values())
            if found is not None:
                free[found.agent] = take(need, found)[0]

    floor = _cpu(naive) / NAIVE_STEPS
    emit(
        "placement",
        Line(
            what=f"placing one step on one of {agents} agents, fairly among {PROJECTS} projects",
            unit="µs of CPU",
            floor=floor * 1e6,
            product=sharing / max(1, len(placed)) * 1e6,
            floor_is="looking at every agent",
            detail={
                "placed": len(placed),
                "first offer of all rooms ms": rounded(first * 1e3),
                "offer with nothing changed ms": rounded(unchanged * 1e3),
            },
        ),
    )
    return 0


def _session(i: int, chance: random.Random) -> SessionState:
    one = SessionState(agent=Agent(f"n{i}", "default"), spool_id="", attestation_key=b"", size=Amount(64_000, 1 << 38))
    one.stated = Room(f"n{i}", "default", 16, chance.randrange(64_000), chance.randrange(1 << 38))
    one.sizes = {f"a{k}": Size(1000, 1 << 30) for k in range(4)}
    return one


def _cpu(work) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
