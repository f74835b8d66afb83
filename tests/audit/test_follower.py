"""Notices are hints: streams go on when every one of them is lost, and when the connection is."""

import asyncio

import psycopg
import pytest

from animus_audit.follower import Follower
from animus_audit.writer import Writer
from animus_kit.clock import SystemClock

from .events import Source


@pytest.fixture
def grow(fresh_database):
    writer = Writer(fresh_database.engine("audit"), SystemClock(), "w")
    writer.start()
    source = Source("catalog")
    yield lambda: writer.submit(source.leaves(source.next(1))).result(10).log_size
    writer.stop()


def follow(follower: Follower, *steps) -> None:
    """Runs steps one after the other, waiting after each until the follower has seen what it returned."""

    async def run() -> None:
        for step in steps:
            size = await asyncio.to_thread(step)
            if size is not None:
                assert await follower.wait_beyond(size - 1, 10) >= size

    follower.start()
    try:
        asyncio.run(run())
    finally:
        follower.stop()


def test_it_hears_of_growth(fresh_database, grow):
    # Long enough between two looks that only the notice can be what wakes it.
    follow(Follower(fresh_database.engine("audit"), poll_seconds=30), grow, grow, grow)


def test_it_looks_when_every_notice_is_lost(fresh_database, grow):
    follow(Follower(fresh_database.engine("audit"), poll_seconds=0.05, channel="nobody_calls_here"), grow, grow)


def test_it_comes_back_when_its_connection_was_ended(fresh_database, grow):
    def kill() -> None:
        with psycopg.connect(fresh_database.admin_dsn) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE '%log_head%' AND pid <> pg_backend_pid()"
            )

    follow(Follower(fresh_database.engine("audit"), poll_seconds=0.05), grow, kill, grow)


def test_waiting_ends_with_its_time_and_with_the_process(fresh_database):
    follower = Follower(fresh_database.engine("audit"), poll_seconds=0.05)

    async def run() -> None:
        assert await follower.wait_beyond(0, 0.05) == 0
        waiting = asyncio.create_task(follower.wait_beyond(0, 30))
        await asyncio.sleep(0)
        follower.stop()
        assert await asyncio.wait_for(waiting, 5) == 0

    follower.start()
    asyncio.run(run())
