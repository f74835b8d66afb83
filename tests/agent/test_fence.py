"""A lease ends in time whatever hangs: the loop, the spool, the thread that watches. What was stopped so goes on."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_agent import node
from animus_agent.attempt import fence
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import LEASE_EXPIRED
from animus_agent.loop import Agent
from animus_agent.testing import World
from animus_kit.clock import SystemClock
from tests.agent import control as controls
from tests.agent.control import ControlPlane, Intent
from tests.agent.test_away import Node, until
from tests.agent.test_full_disk import running
from tests.agent.test_replay import Process

State = run_pb2.Attempt.State
NOW = SystemClock().monotonic


@pytest.fixture
def here(control: ControlPlane, node_dir: Path) -> Iterator[Node]:
    folder = node_dir / "node"
    folder.mkdir(mode=0o711)
    one = Node(control, folder, "fake")
    yield one
    node.purge(one.settings)


@pytest.fixture
def one(node_dir: Path, fake_world: World) -> Process:
    (node_dir / "node").mkdir(mode=0o711)
    return Process(node_dir / "node", fake_world)


def attempt_of(one: Process, name: str) -> Attempt:
    return one.holdings._held[name].attempt


def test_a_spool_that_hangs_keeps_nothing_running(control: ControlPlane, here: Node) -> None:
    """With it hang the loop, which takes an assignment, and the thread of the container that runs."""
    control.lease = 5.0

    async def story(agent: Agent) -> None:
        orders = [control.world.order("fake", "seconds=600") for _ in range(2)]
        first = control.assign(orders[0])
        await until(lambda: State.STATE_RUNNING in first.states, "its run")
        attempt, driver, spool = agent._holdings._held[orders[0][0]].attempt, agent._parts.driver, agent._spool
        stuck, go_on, accept = threading.Event(), threading.Event(), spool.accept

        def hang(name: str, event: bytes) -> bool:
            with spool._lock:
                stuck.set()
                assert go_on.wait(60)
            return accept(name, event)

        spool.accept = hang  # type: ignore[method-assign]

        def watch() -> None:
            """In a thread of its own, since the loop hangs."""
            try:
                assert stuck.wait(20)
                here.clock.ahead += control.lease
                assert attempt.handle is not None
                controls.until(lambda: driver.paused(attempt.handle), "that it stands still")  # type: ignore[arg-type]
            finally:
                go_on.set()

        second = control.assign(orders[1])
        await asyncio.to_thread(watch)
        await until(lambda: not driver.paused(attempt.handle), "that it goes on")  # type: ignore[arg-type]
        await until(lambda: State.STATE_RUNNING in second.states, "the other's run")
        for known in (first, second):
            known.intent = Intent.INTENT_CANCEL
        await until(lambda: first.results and second.results, "their ends")
        assert [result.reason for result in first.results] == ["CANCELED"]

    here.live(story)


def test_what_is_renewed_before_anybody_looked_goes_on(
    one: Process, fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence stops it, and its thread hears of it only when the lease is there again."""
    (name,) = running(one, fake_world)
    attempt, driver = attempt_of(one, name), one.parts.driver
    assert attempt.handle is not None
    looking, looks = threading.Event(), threading.Event()
    follow = fence.Standstill.follow

    def late(self, now: float) -> None:  # type: ignore[no-untyped-def]
        looking.set()
        assert looks.wait(20)
        follow(self, NOW())

    monkeypatch.setattr(fence.Standstill, "follow", late)
    assert looking.wait(20)
    one.holdings._held[name].deadline = stopped = NOW()
    one.holdings.fence()
    assert driver.paused(attempt.handle)
    one.direct(name, Intent.INTENT_KEEP)
    assert driver.paused(attempt.handle) and not attempt.fenced.is_set()
    looks.set()
    controls.until(lambda: not driver.paused(attempt.handle), "that it goes on")  # type: ignore[arg-type]
    controls.until(lambda: attempt.directory.read(fence.MARK), "the mark")
    assert 0 < attempt.directory.read(fence.MARK)["total"] <= NOW() - stopped
    one.holdings.abandon()
    one.stop()


def test_a_renewal_that_comes_first_is_not_undone(one: Process, fake_world: World) -> None:
    """The fence looked, then the lease was renewed, then it would have stopped the container for ever."""
    (name,) = running(one, fake_world)
    attempt = attempt_of(one, name)
    assert fence.stand_still(attempt, one.parts.driver, NOW()) and attempt.handle is not None
    assert not one.parts.driver.paused(attempt.handle) and attempt.stands_since is None
    one.holdings.abandon()
    one.stop()


def test_one_that_cannot_be_stopped_keeps_no_other_running(
    one: Process, fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = running(one, fake_world, 3)
    attempts = [attempt_of(one, name) for name in names]
    pause, first = one.parts.driver.pause, attempts[0].handle

    def failing(handle, paused: bool) -> bool:  # type: ignore[no-untyped-def]
        if handle == first:
            raise OSError("the kernel does not answer")
        return pause(handle, paused)

    # Only the fence: their threads look no more.
    monkeypatch.setattr(fence.Standstill, "follow", lambda *_: None)
    monkeypatch.setattr(one.parts.driver, "pause", failing)
    for held in one.holdings._held.values():
        held.deadline = NOW()
    one.holdings.fence()
    assert [attempt.stands_since is not None for attempt in attempts] == [False, True, True]
    one.holdings.abandon()
    one.stop()


def test_giving_up_what_stood_too_long_waits_for_no_disk(
    one: Process, fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = running(one, fake_world, 2)
    hangs, go_on, kill, given_up = threading.Event(), threading.Event(), Attempt.kill, []

    def slow(self, failure) -> None:  # type: ignore[no-untyped-def]
        given_up.append(self.name)
        hangs.set()
        assert go_on.wait(20)
        kill(self, failure)

    monkeypatch.setattr(Attempt, "kill", slow)
    one.holdings._held[names[0]].deadline = NOW() - one.holdings._fenced_limit
    began = time.monotonic()
    one.holdings.fence()
    assert hangs.wait(10)
    one.holdings._held[names[1]].deadline = NOW()
    one.holdings.fence()
    assert attempt_of(one, names[1]).stands_since is not None and time.monotonic() < began + 20
    assert given_up == names[:1]
    go_on.set()
    controls.until(lambda: one.state_of(names[0]) == State.STATE_FAILED, "its end")
    assert attempt_of(one, names[0]).failure == LEASE_EXPIRED
    one.holdings.abandon()
    one.stop()
