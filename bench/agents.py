"""Idle agents on one dispatch process: what each costs in memory, and how long a heartbeat takes.

    .venv/bin/python -m bench.agents [agents] [seconds]

Enrolled identities, each with its own mutually authenticated connection and its own session on the real stream
(tests/orchestrator/fleet.py); PostgreSQL, dispatch, and the processes that play the agents share this machine. A
heartbeat's time is from its Status sent to the Directive that answers it, so that the players' own queues are in it.
"""

from __future__ import annotations

import sys

from animus_kit.clock import SystemClock
from bench import control
from bench.local import folder
from bench.report import Line, emit, percentile, tell
from tests.orchestrator import fleet
from tests.orchestrator.world import World

NAME = "agents"
INTERVAL = 10.0
"""As `ANIMUS_STATUS_INTERVAL`."""
BUDGET_MS = 50
FLOOR_BYTES = 88_000
"""A held stream with its connection on grpc.aio, without any service behind it, measured once (docs/benchmarks.md)."""


def main(count: int, seconds: float) -> None:
    clock = SystemClock()
    with control.database() as database, folder() as root, World(database, root) as world:
        world.dispatch.stop()
        begin = clock.monotonic()
        fleet.enrol(world, count)
        tell(f"{count} identities in {clock.monotonic() - begin:.0f} s")
        # Past the first whole round, in which each says where it stands.
        report = fleet.measure(world, root / "dispatch.log", count, seconds, INTERVAL, settle=INTERVAL)
    tell(
        f"connected in {report.connect_seconds:.0f} s; {len(report.heartbeats_ms)} heartbeats; {report.errors or 'no errors'}"
    )
    p50, p99 = (percentile(report.heartbeats_ms, share) for share in (0.5, 0.99))
    detail = {
        "heartbeat_p50_ms": round(p50, 1), "connects_a_second": round(count / report.connect_seconds),
        "dispatch_cores": round(report.cpu, 3), "errors": len(report.errors),
    }  # fmt: skip
    emit(
        NAME,
        Line(f"{count} idle agents: a heartbeat, p99", "ms", None, p99, "", f"≤ {BUDGET_MS} ms",
             p99 <= BUDGET_MS and not report.errors, detail),
    )  # fmt: skip
    emit(
        NAME,
        Line(f"{count} idle agents: memory of each in dispatch", "bytes", FLOOR_BYTES, report.rss_per_agent,
             "the stream alone, measured once"),
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000, float(sys.argv[2]) if len(sys.argv) > 2 else 30.0)
