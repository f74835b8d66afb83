"""Two thousand agents on one dispatch process: they stay connected, and their heartbeats cost the database nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.orchestrator import fleet
from tests.orchestrator.world import World

AGENTS = 2000
SECONDS = 6.0
INTERVAL = 3.0


@pytest.fixture
def own(postgres: Any, tmp_path: Path) -> Iterator[World]:
    """A world of its own: other tests' sessions would be counted too. Its dispatch is another process."""
    database = postgres.database(("animus_orchestrator",))
    with World(database, tmp_path) as world:
        world.dispatch.stop()
        yield world
    database.drop()


@pytest.mark.timeout(300)
def test_two_thousand_agents_idle_on_one_dispatch_process(own: World, tmp_path: Path) -> None:
    def written() -> int:
        """Statuses that were written down. The server counts a moment late."""
        with own.engine.connect() as conn:
            return conn.execute(
                sa.text("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'agents'")
            ).scalar_one()

    fleet.enrol(own, AGENTS)
    # Each has been looked at whole once before it is measured.
    report = fleet.measure(own, tmp_path / "dispatch.log", AGENTS, SECONDS, INTERVAL, settle=INTERVAL, probe=written)
    assert report.errors == []
    # Each beat as often as it should have, but for those under way at the ends.
    assert len(report.heartbeats_ms) >= AGENTS * (SECONDS / INTERVAL - 1)
    # Far above what it takes (docs/benchmarks.md): this holds on a busy machine too, and finds what grows with each agent.
    assert report.rss_per_agent < 200_000
    assert report.cpu < 1.2
    # Now and then each is looked at whole (dispatch/idle.py), and not with each heartbeat.
    assert report.probed < len(report.heartbeats_ms) / 2
    with own.engine.connect() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM agents WHERE session = 1")).scalar_one() == AGENTS
