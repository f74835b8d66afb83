"""Choosing which ready steps go to which of the agents that ask: reads the queue, changes nothing in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from animus_orchestrator.dispatch import gpus
from animus_orchestrator.dispatch.fleet import Fleet
from animus_orchestrator.dispatch.work import SessionState
from animus_orchestrator.domain import sharing
from animus_orchestrator.domain.quota import Standing, exceeded
from animus_orchestrator.domain.rooms import Reach, Rooms
from animus_orchestrator.domain.scheduler import Placement, Room
from animus_orchestrator.domain.sharing import Waiting
from animus_orchestrator.store import queue, quotas

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch

LEASES_AT_ONCE = 256
"""In one transaction: a contract is signed for each, and everybody else waits for it."""

MOST_OF_A_QUEUE = 256
DEEPER = 8
"""How many times as far to look, once, when all that was seen of a queue fits nowhere."""


def choose(batch: Batch, sessions: Sequence[SessionState], fleet: Fleet) -> tuple[list[Placement], dict[int, int]]:
    """Placements, and the run of each step in them."""
    rooms = fleet.offer(sessions)
    kept_free = fleet.reserved(sessions)
    reach = rooms.reach()
    each = min(MOST_OF_A_QUEUE, 32 + 8 * len(sessions))
    found: list[queue.Candidate] = []
    placements: list[Placement] = []
    for depth in (each, each * DEEPER):
        found = queue.candidates(batch.conn, reach, depth) if reach.cpu_millis >= 0 else []
        seen = {c.need.step_uid for c in found}
        found += queue.ready_among(batch.conn, kept_free.keys() - seen)
        if not found:
            break
        if any(c.need.gpus for c in found):
            kept_free = _less_held(batch, rooms, kept_free, fleet)
        placements = _place(batch, found, rooms, kept_free, fleet)
        # Steps that fit nowhere now must not hide those behind them.
        if placements or max(Counter((c.need.pool, c.need.project) for c in found).values()) < depth:
            break
    # Not every placement becomes a lease: what is left of these rooms is computed anew.
    fleet.forget(p.agent for p in placements)
    placements = gpus.still_free(batch.conn, placements)
    fleet.leased({p.step_uid for p in placements})
    if fleet.review_due(sessions):
        _review(batch, sessions, rooms, fleet, {p.step_uid for p in placements})
    return placements, {c.need.step_uid: c.run_uid for c in found}


def _place(
    batch: Batch, found: Iterable[queue.Candidate], rooms: Rooms, kept_free: Mapping[int, Room], fleet: Fleet
) -> list[Placement]:
    queues: dict[str, list[queue.Candidate]] = defaultdict(list)
    for one in found:
        queues[one.need.project].append(one)
    standings = quotas.standings(batch.conn, queues)
    waiting = {
        project: [
            Waiting(c.need, c.ready_time, aged=batch.now - c.ready_time >= fleet.patience)
            for c in sorted(queues[project], key=lambda c: c.rank)
        ]
        for project in standings
    }
    return sharing.distribute(waiting, standings, fleet.total, rooms, LEASES_AT_ONCE, kept_free)


def _less_held(batch: Batch, rooms: Rooms, kept_free: dict[int, Room], fleet: Fleet) -> dict[int, Room]:
    """Takes GPUs out of the rooms that are somebody's by our own record."""
    stated = [room for room in rooms if room.gpus]
    for before, room in zip(stated, gpus.less_held(batch.conn, stated), strict=True):
        if room != before:
            rooms.put(room)
            fleet.forget([room.agent])
    left = gpus.less_held(batch.conn, list(kept_free.values()))
    return dict(zip(kept_free, left, strict=True))


def _review(batch: Batch, sessions: Sequence[SessionState], rooms: Rooms, fleet: Fleet, placed: set[int]) -> None:
    reserved = {one.need.step_uid for one in fleet.reservations.values()}
    long = [c for c in queue.starved(batch.conn, _places(sessions), fleet.patience) if c.need.step_uid not in placed]
    waiting = {c.need.step_uid for c in long}
    waiting |= {c.need.step_uid for c in queue.ready_among(batch.conn, reserved - waiting)} - placed
    stuck = [c for c in long if rooms.best(c.need) is None]
    standings = quotas.standings(batch.conn, {c.need.project for c in stuck}) if stuck else {}

    def deserving(one: queue.Candidate) -> tuple[object, ...]:
        standing: Standing = standings[one.need.project]
        return sharing.dominant_share(standing, standing.used, fleet.total), one.rank

    # What waits for its quota needs no node.
    stuck = [
        c
        for c in stuck
        if (s := standings.get(c.need.project)) is not None and exceeded(s.limits, s.used, c.need) is None
    ]
    fleet.review(sessions, waiting, [c.need for c in sorted(stuck, key=deserving)])


def _places(sessions: Sequence[SessionState]) -> Reach:
    """Where these serve, however full they are."""
    served = {s.agent.projects for s in sessions}
    return Reach(
        0, 0, 0, frozenset(s.agent.pool for s in sessions),
        None if frozenset() in served else frozenset().union(*served), frozenset(), frozenset(),
    )  # fmt: skip
