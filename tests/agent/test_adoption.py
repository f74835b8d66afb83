"""What a process before left running: it stands still without a lease before all else, and is watched before any hash."""

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_agent.attempt import fence, running, steps
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.attempt.failure import Abandoned, FailureClass
from animus_agent.errors import IdentityError
from animus_agent.images.cache import ImageCache
from animus_agent.loop import Agent
from animus_agent.sandbox.driver import Phase
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.spool import Spool
from animus_agent.testing import EPOCH, MemoryReporter, World
from animus_agent.trees import TreeCache
from animus_kit.clock import SystemClock
from animus_kit.documents import manifest
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import until
from tests.agent.test_crash import SCRIPT, Died, die_before, go_on
from tests.agent.test_replay import Process

State = run_pb2.Attempt.State
Intent = pb.AttemptDirective.Intent


@pytest.fixture
def life(node_dir: Path, fake_world: World) -> Callable[[], Process]:
    (node_dir / "node").mkdir(mode=0o711)
    return lambda: Process(node_dir / "node", fake_world)


def started(world: World, order: tuple[str, bytes, bytes]) -> Attempt:
    """Its process died right after the start."""
    attempt = world.attempt(order)
    with pytest.raises(Died):
        steps.execute(attempt, die_before("run"))
    assert attempt.handle is not None
    attempt.directory.mark("run", monotonic=world.clock.monotonic(), wall=0.0)
    attempt.ports.driver.start(attempt.handle)
    return attempt


def test_what_ran_beyond_its_lease_stands_still_before_all_else(
    life: Callable[[], Process], fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = life()
    order, lent = fake_world.order("fake", "seconds=60"), fake_world.order("fake", "seconds=60")
    for each in (order, lent):
        one.assign(each)
        until(lambda name=each[0]: one.state_of(name) == State.STATE_RUNNING, "its run")
    directory = AttemptDirectory(one.parts.attempts_dir / identifier(order[0]))
    directory.mark("lease", deadline=SystemClock().monotonic())
    handles = [one.holdings._held[name].attempt.handle for name, *_ in (order, lent)]
    seen: list[list[bool]] = []
    open_attempts = Spool.open_attempts

    def looking(self) -> dict[str, bool]:  # type: ignore[no-untyped-def]
        seen.append([one.parts.driver.paused(handle) for handle in handles if handle])
        return open_attempts(self)

    monkeypatch.setattr(Spool, "open_attempts", looking)
    two = life()
    assert seen == [[True, False]]
    two.direct(order[0], Intent.INTENT_KEEP)
    until(lambda: not two.parts.driver.paused(handles[0]), "that it goes on")  # type: ignore[arg-type]
    for name, *_ in (order, lent):
        two.direct(name, Intent.INTENT_CANCEL)
        until(lambda name=name: one.state_of(name) == two.state_of(name) == State.STATE_CANCELED, "its end")
    one.stop()
    two.stop()


def test_where_it_cannot_stand_still_it_ends(fake_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = started(fake_world, fake_world.order("fake", "seconds=60"))
    monkeypatch.setattr(type(fake_world.driver), "pause", lambda *_: False)
    fence.freeze_expired(fake_world.root / "attempts", fake_world.driver, math.inf)
    assert attempt.handle is not None and fake_world.driver.status(attempt.handle) is Phase.EXITED
    reporter = MemoryReporter()
    go_on(fake_world, (attempt.name, attempt.contract_envelope, attempt.grant_envelope), reporter)
    assert reporter.results[0].failure is not None and reporter.results[0].failure.reason == "LEASE_EXPIRED"


def test_what_runs_is_watched_before_anything_is_fetched_or_hashed(
    fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fake_world.blobs.put_tree({"a": b"alpha"})
    order = fake_world.order("fake", inputs={"data": data})
    attempt = started(fake_world, order)
    looked: list[str] = []

    def refuse(*_: object) -> None:
        raise AssertionError("fetched or hashed before the run")

    for cache in (TreeCache, ImageCache):
        monkeypatch.setattr(cache, "get", refuse)
    verify = TreeCache.verify
    monkeypatch.setattr(TreeCache, "verify", lambda self, *rest: looked.append("verify") or verify(self, *rest))
    monkeypatch.setattr(running, "run", lambda one, run=running.run: looked.append("run") or run(one))
    reporter = MemoryReporter()
    go_on(fake_world, order, reporter)
    assert reporter.results[0].failure is None and looked == ["run", "verify"]
    assert attempt.trees["inputs/data"].path.exists()


@pytest.mark.parametrize("content", [b"ALPHA", None])
def test_an_input_that_changed_while_no_agent_was_there_taints(fake_world: World, content: bytes | None) -> None:
    order = fake_world.order("fake", inputs={"data": fake_world.blobs.put_tree({"a": b"alpha"})})
    path = started(fake_world, order).trees["inputs/data"].path / "a"
    path.chmod(0o644)
    path.write_bytes(content) if content else path.unlink()
    reporter = MemoryReporter()
    go_on(fake_world, order, reporter)
    failure = reporter.results[0].failure
    assert failure is not None and (failure.failure_class, failure.reason) == (FailureClass.TAINTED, "INPUT_CHANGED")


@requires_runc
def test_one_that_stands_still_before_its_start_is_started(runc_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = runc_world.order("/bin/sh", "-c", SCRIPT, outputs=("o",), timeout=30)
    reporter, attempt = MemoryReporter(), runc_world.attempt(order)

    def die(self, container):  # type: ignore[no-untyped-def]
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(RuncDriver, "_release", die)
        steps.execute(attempt)
    # An hour ago, and no lease is written down.
    attempt.directory.mark("run", monotonic=runc_world.clock.monotonic() - 3600.0, wall=0.0)
    fence.freeze_expired(runc_world.root / "attempts", runc_world.driver, runc_world.clock.monotonic())
    assert attempt.handle is not None and runc_world.driver.paused(attempt.handle)
    go_on(runc_world, order, reporter)
    assert reporter.results[0].failure is None and reporter.text == b"ran\n"


def test_a_hash_is_given_up_between_pieces_of_a_file(fake_world: World) -> None:
    data = fake_world.blobs.put_tree({"a": b"alpha" * 1_000_000})
    tree = fake_world.trees.get(data, EPOCH, manifest.DATASET, fake_world.blobs)
    asked: list[bool] = []

    def check() -> None:
        asked.append(True)
        if len(asked) > 2:
            raise Abandoned

    with pytest.raises(Abandoned):
        fake_world.trees.verify(tree, check)
    # Given up is not damaged.
    assert tree.path.exists() and fake_world.trees.verify(tree)


def test_a_revoked_node_leaves_nothing_running(
    life: Callable[[], Process], fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the thread that watches a container hangs."""
    one, hangs, go_on = life(), threading.Event(), threading.Event()

    def ship(*_: object, **__: object) -> None:
        hangs.set()
        assert go_on.wait(30)

    monkeypatch.setattr(running, "ship", ship)
    monkeypatch.setattr("animus_agent.loop.LEAVE_SECONDS", 0.1)
    order = fake_world.order("fake", "seconds=60")
    one.assign(order)
    assert hangs.wait(20)
    handle = one.holdings._held[order[0]].attempt.handle
    agent = Agent.__new__(Agent)
    agent._holdings = one.holdings
    with pytest.raises(IdentityError):
        asyncio.run(agent._leave("revoked"))
    assert handle is not None and one.parts.driver.status(handle) is Phase.EXITED
    go_on.set()
    one.stop()
