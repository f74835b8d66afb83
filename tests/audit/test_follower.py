"""Notices are hints: streams go on when every one of them is lost, and when the connection is."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from animus_audit.follower import Follower, Recent
from animus_audit.store import events
from animus_audit.store.events import Filter
from animus_audit.writer import Writer
from animus_kit.clock import SystemClock

from .events import TIME, Source


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


@pytest.mark.parametrize(
    "where",
    [
        Filter(),
        Filter(types=("catalog.dataset.created",)),
        Filter(types=("catalog.", "x")),
        Filter(types=("catalog.data",)),
        Filter(types=("catalog.d_taset.",)),
        Filter(resource="projects/p/datasets/a"),
        Filter(resource="projects/p/datasets/"),
        Filter(resource="projects/p/datasets"),
        Filter(project="projects/p"),
        Filter(source="catalog", types=("catalog.model.created",)),
        Filter(source="lineage"),
        Filter(actor="a-" + "1" * 32),
        Filter(request_id="r-1"),
        Filter(min_time=TIME),
        Filter(max_time=TIME),
    ],
)
def test_what_is_kept_is_filtered_as_the_database_filters(log_of_all_kinds, where):
    engine, size, recent = log_of_all_kinds
    with engine.connect() as conn:
        for start in range(size + 1):
            told = events.scan(conn, where, start=start, end=size, limit=100).events
            assert recent.after(start, where) == (told, size)


@pytest.fixture(scope="module")
def log_of_all_kinds(database):
    """A log with something for and against each filter, and all of it as a follower keeps it."""
    engine = database.engine("audit")
    writer = Writer(engine, SystemClock(), "w")
    writer.start()
    source, other = Source("catalog", project="projects/p"), Source("policy")
    made = [
        *source.leaves(source.next(2)),
        *source.leaves(source.next(1, event_type="catalog.model.created", resource="projects/p/datasets/a")),
        *source.leaves(source.next(1, project="projects/q", request_id="r-1", resource="projects/p/datasets/a/versions/1")),
        *source.leaves(source.next(1, actor="a-" + "1" * 32, time=TIME - timedelta(seconds=1))),
    ]  # fmt: skip
    writer.submit(made).result(10)
    size = writer.submit(other.leaves(other.next(2))).result(10).log_size
    writer.stop()
    with engine.connect() as conn:
        kept = tuple(events.scan(conn, Filter(), start=0, end=size, limit=size).events)
    return engine, size, Recent(0, size, kept)


def test_what_is_kept_is_bounded_in_number_and_in_what_one_answer_weighs(log_of_all_kinds, monkeypatch):
    _, size, recent = log_of_all_kinds
    late = Recent(3, size, recent.events[3:])
    assert late.after(2, Filter()) is None
    monkeypatch.setattr(events, "MAX_PAGE_BYTES", recent.events[0].weight * 2 + 100)
    at, told = 0, []
    while at < size:
        found, at = recent.after(at, Filter())
        assert 1 <= len(found) <= 2
        told += found
    assert told == list(recent.events)


def test_a_follower_keeps_the_newest_once_a_stream_has_come(fresh_database, grow, monkeypatch):
    monkeypatch.setattr("animus_audit.follower.KEPT_EVENTS", 3)
    follower = Follower(fresh_database.engine("audit"), poll_seconds=0.05)
    kept = []

    def keep() -> None:
        kept.append((follower.recent.start, follower.recent.end, [e.index for e in follower.recent.events]))

    follow(follower, grow, keep, grow, keep, grow, grow, keep, grow, keep)
    assert kept[-1] == (2, 5, [2, 3, 4])
    assert all(start + len(indices) == end for start, end, indices in kept)
