"""A state disk that is full, or a control plane that is late: what must end ends, what must stand still does."""

import errno
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_agent.attempt import directory as attempt_directory
from animus_agent.attempt import fence
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.attempt.failure import CANCELED
from animus_agent.disk import Disk
from animus_agent.errors import SpoolUnavailable
from animus_agent.loop import Agent
from animus_agent.sandbox.driver import Handle
from animus_agent.session import Session
from animus_agent.spool import Spool
from animus_agent.testing import PLATFORM, World
from animus_kit.clock import SystemClock
from animus_kit.digest import hex_of
from animus_kit.ids import RandomIds
from tests.agent.control import until
from tests.agent.test_replay import Process

State = run_pb2.Attempt.State
Intent = pb.AttemptDirective.Intent
NOW = SystemClock().monotonic


@pytest.fixture
def one(node_dir: Path, fake_world: World) -> Process:
    (node_dir / "node").mkdir(mode=0o711)
    return Process(node_dir / "node", fake_world)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Called, it fills the disk for all marks and the spool."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr(attempt_directory, "write_atomic", refuse)

    return fill


def running(one: Process, world: World, count: int = 1) -> list[str]:
    orders = [world.order("fake", "seconds=60") for _ in range(count)]
    for order in orders:
        one.assign(order)
    for order in orders:
        until(lambda name=order[0]: one.state_of(name) == State.STATE_RUNNING, "its run")
    return [order[0] for order in orders]


def session_of(one: Process) -> Session:
    session = Session.__new__(Session)
    session._holdings, session._stated, session._answered, session._answered_at = one.holdings, {}, 0, NOW()
    session.unschedulable = ""
    session.poke = lambda **_: None  # type: ignore[method-assign]
    return session


def kept(names: list[str]) -> pb.Directive:
    directive = pb.Directive()
    for name in names:
        directive.attempts.add(attempt=name, intent=Intent.INTENT_KEEP).lease_duration.FromSeconds(60)
    return directive


def test_a_full_disk_keeps_nothing_alive(one: Process, fake_world: World, full) -> None:  # type: ignore[no-untyped-def]
    canceled, *revoked = running(one, fake_world, 3)
    full()
    one.direct(canceled, Intent.INTENT_CANCEL)
    until(lambda: one.state_of(canceled) == State.STATE_CANCELED, "its end")
    result = pb.SpoolEvent.FromString(one.spool.result_of(canceled) or b"").result
    assert result.reason == CANCELED.reason
    one.holdings.abandon()
    until(lambda: not one.holdings.states(), "that all are given up")
    assert all(one.spool.result_of(name) is None for name in revoked)
    one.stop()


def test_a_full_disk_renews_every_lease(one: Process, fake_world: World, full) -> None:  # type: ignore[no-untyped-def]
    names = running(one, fake_world, 2)
    full()
    for held in one.holdings._held.values():
        held.deadline = NOW()
    one.holdings.fence()
    session_of(one)._directive(kept(names))
    assert all(not held.attempt.fenced.is_set() for held in one.holdings._held.values())
    one.holdings.abandon()
    one.stop()


def test_a_full_disk_does_not_keep_an_attempt_from_standing_still(
    one: Process, fake_world: World, full, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    (name,) = running(one, fake_world)
    held = one.holdings._held[name]
    full()
    held.deadline = NOW()
    one.holdings.fence()
    handle, driver = held.attempt.handle, one.parts.driver
    assert handle is not None
    until(lambda: driver.paused(handle), "that it stands still")
    # A thaw that fails is tried again.
    pause, refused = driver.pause, []

    def reluctant(handle: Handle, paused: bool) -> bool:
        if not paused and len(refused) < 2:
            refused.append(True)
            return False
        return pause(handle, paused)

    monkeypatch.setattr(driver, "pause", reluctant)
    one.direct(name, Intent.INTENT_KEEP)
    until(lambda: not driver.paused(handle), "that it goes on")
    assert len(refused) == 2 and one.state_of(name) == State.STATE_RUNNING
    one.holdings.abandon()
    one.stop()


def test_what_comes_late_lends_nothing(one: Process, fake_world: World) -> None:
    """The agent stood still: what was written for it before may belong to another node by now."""
    (name,) = running(one, fake_world)
    session = session_of(one)
    session._stated = {1: NOW() - 70.0, 2: NOW()}
    session._answered_at = NOW() - 70.0
    order = fake_world.order("fake")
    late = kept([name])
    assignment = late.assignments.add(attempt=order[0], contract=order[1], grant=order[2])
    assignment.lease_duration.FromTimedelta(timedelta(seconds=60))
    one.holdings._held[name].deadline = NOW()
    one.holdings.fence()
    for sequence in (0, 1, 99):
        late.status_sequence = sequence
        session._directive(late)
    assert one.holdings._held[name].attempt.fenced.is_set() and one.state_of(order[0]) is None
    late.status_sequence = 2
    session._directive(late)
    assert not one.holdings._held[name].attempt.fenced.is_set() and one.state_of(order[0]) is not None
    one.holdings.abandon()
    one.stop()


def test_the_log_bound_holds_where_an_acknowledgement_is_not_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", RandomIds(), max_log_bytes=100)
    spool.accept("a", b"")
    spool.log("a", [b"x" * 90], 90, 90)

    class Full:
        """Refuses to commit."""

        def __init__(self, db) -> None:  # type: ignore[no-untyped-def]
            self._db = db

        def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
            return getattr(self._db, name)

        def execute(self, query: str, *rest):  # type: ignore[no-untyped-def]
            if query == "commit":
                raise sqlite3.OperationalError("database or disk is full")
            return self._db.execute(query, *rest)

    whole = spool._db
    spool._db = Full(whole)  # type: ignore[assignment]
    for take in (lambda: spool.acknowledge(10), lambda: spool.forget("a")):
        with pytest.raises(SpoolUnavailable):
            take()
    spool._db = whole
    assert spool._log_bytes == 90
    spool.acknowledge(10)
    assert spool._log_bytes == 0
    spool.close()


def test_the_fence_outlives_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    class Broken:
        def fence(self) -> None:
            turns.append(1)
            raise OSError(errno.EIO, "a disk")

    agent = Agent.__new__(Agent)
    agent._holdings, agent._over = Broken(), threading.Event()  # type: ignore[assignment]
    monkeypatch.setattr("animus_agent.loop.FENCE_SECONDS", 0.0)
    thread = threading.Thread(target=agent._fence)
    thread.start()
    until(lambda: len(turns) > 2, "its third look")
    agent._over.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_container_that_stands_still_without_a_mark_goes_on(one: Process, fake_world: World) -> None:
    """The process before died between the deed and the mark."""
    (name,) = running(one, fake_world)
    attempt = one.holdings._held[name].attempt
    assert attempt.handle is not None
    one.parts.driver.pause(attempt.handle, True)
    standstill = fence.Standstill(attempt)
    standstill.follow(NOW())
    assert not one.parts.driver.paused(attempt.handle)
    assert AttemptDirectory(one.parts.attempts_dir / identifier(name)).read(fence.MARK)
    one.holdings.abandon()
    one.stop()


def test_a_full_disk_gets_back_what_nobody_holds(
    one: Process, fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a fetch nothing else evicts, and without room no attempt comes that would fetch."""
    trees, images, blobs = one.parts.trees, one.parts.images, fake_world.blobs
    state = one.settings.agent_state_dir
    held, *unused = (blobs.put_tree({"f": bytes([n]) * (1 << 20)}) for n in range(3))
    for digest in (held, *unused):
        trees.get(digest, 0, "dataset", blobs)
    images.get(fake_world.image, PLATFORM, blobs)
    (state / "trees" / ".part-0-0").mkdir()

    def disk(folder: Path) -> SimpleNamespace:
        kept = len(list((state / "trees").glob("[!.]*")))
        return SimpleNamespace(f_bavail=(3 - kept) << 20, f_frsize=1, f_files=0, f_favail=0)

    monkeypatch.setattr("animus_agent.disk.os.statvfs", disk)
    monkeypatch.setattr("animus_agent.disk.MIN_FREE_BYTES", 1 << 20)
    monkeypatch.setattr("animus_agent.disk.WANTED_FREE_BYTES", 2 << 20)
    with trees.holding(held, 0):
        assert one.holdings.room() == pb.Room()
        until(lambda: one.holdings.room().attempts == 8, "that there is room")
        until(lambda: not one.holdings._room._disk._evicting.locked(), "that it is done")
    assert [path.name for path in (state / "trees").iterdir()] == [f"{hex_of(held)}-0"]
    # Enough was free before it came to them.
    assert images.digests() == [fake_world.image]
    one.stop()


def test_who_asks_for_the_room_waits_for_no_eviction(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    evicting, go_on, told = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def evict(self, *_: object) -> None:
            evicting.set()
            assert go_on.wait(20)

    full = Disk(one.parts.attempts_dir, [Slow()], told.set)
    monkeypatch.setattr("animus_agent.disk.MIN_FREE_BYTES", 1 << 62)
    assert full.is_full() and evicting.wait(10) and full.is_full()
    monkeypatch.setattr("animus_agent.disk.MIN_FREE_BYTES", 0)
    go_on.set()
    assert told.wait(10)
    one.stop()
