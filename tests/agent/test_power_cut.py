"""What a power cut leaves: marks that are empty, a spool that knows more than the disk. The agent starts, and tells it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_agent.attempt import steps
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import SpoolUnavailable
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.spool import Spool
from animus_agent.testing import MemoryReporter, World
from animus_kit.documents.action import Network
from tests.agent.control import until
from tests.agent.test_replay import Process

State = run_pb2.Attempt.State
Intent = pb.AttemptDirective.Intent
MARKS = ("sandbox", "lease", "run", "paused", "kill")


@pytest.fixture
def life(node_dir: Path, fake_world: World) -> Callable[[], Process]:
    (node_dir / "node").mkdir(mode=0o711)
    return lambda: Process(node_dir / "node", fake_world)


def begun(one: Process, world: World, *words: str) -> tuple[str, AttemptDirectory]:
    order = world.order("fake", *words)
    one.assign(order)
    wanted = State.STATE_RUNNING if "seconds=60" in words else State.STATE_SUCCEEDED
    until(lambda: one.state_of(order[0]) == wanted, "that it got there")
    return order[0], AttemptDirectory(one.parts.attempts_dir / identifier(order[0]))


def tear(directory: AttemptDirectory, *names: str) -> None:
    for name in names:
        (directory.path / f"{name}.json").write_bytes(b"")


def another_boot(directory: AttemptDirectory) -> None:
    directory.mark("attempt", **{**directory.read("attempt"), "boot_id": "another"})


def test_empty_marks_of_another_boot_keep_no_agent_from_starting(
    life: Callable[[], Process], fake_world: World
) -> None:
    one = life()
    name, directory = begun(one, fake_world, "seconds=60")
    another_boot(directory)
    tear(directory, *MARKS)
    two = life()
    until(lambda: two.state_of(name) == State.STATE_FAILED, "that it is told as lost")
    result = pb.SpoolEvent.FromString(two.spool.result_of(name) or b"").result
    assert result.reason == "NODE_REBOOTED"
    one.direct(name, Intent.INTENT_STALE)
    one.stop()
    two.stop()


def test_an_empty_mark_of_this_boot_is_no_absent_one(life: Callable[[], Process], fake_world: World) -> None:
    """Nothing of ours leaves one, and as absent it would have the attempt begin anew."""
    one = life()
    _, directory = begun(one, fake_world)
    tear(directory, "run")
    with pytest.raises(ValueError):
        directory.read("run")
    one.stop()


def test_an_attempt_that_cannot_be_adopted_is_lost_alone(life: Callable[[], Process], fake_world: World) -> None:
    one = life()
    bad, directory = begun(one, fake_world)
    good, _ = begun(one, fake_world)
    one.stop()
    tear(directory, "sandbox")
    two = life()
    # Dispatch finds it missing.
    assert [held.attempt for held in two.holdings.states()] == [good]
    assert two.spool.open_attempts() == {bad: True, good: True}
    two.stop()


def test_a_container_that_is_not_deleted_keeps_no_agent_from_starting(
    life: Callable[[], Process], fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = life()
    ended, _ = begun(one, fake_world)
    one.stop()

    def stuck(*_: object) -> None:
        raise subprocess.TimeoutExpired(["runc", "delete"], 30)

    monkeypatch.setattr(FakeDriver, "destroy", stuck)
    monkeypatch.setattr(FakeDriver, "remove", stuck)
    monkeypatch.setattr(FakeDriver, "ids", lambda self: {"an-orphan"})
    two = life()
    assert two.state_of(ended) == State.STATE_SUCCEEDED
    begun(two, fake_world)
    two.stop()


def test_a_spool_that_takes_nothing_keeps_no_agent_from_starting(
    life: Callable[[], Process], fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = life()
    gone = fake_world.order("fake")[0]
    one.spool.accept(gone, pb.SpoolEvent(attempt=gone).SerializeToString())
    one.stop()

    def full(*_: object) -> None:
        raise SpoolUnavailable("no space left on device")

    monkeypatch.setattr(Spool, "result", full)
    two = life()
    assert two.holdings.states() == [] and two.spool.open_attempts() == {gone: False}
    two.stop()


def test_a_failure_is_told_where_the_record_of_the_way_out_is_torn(fake_world: World) -> None:
    world = fake_world
    world.egress, world.features = Ceiling.parse(["*:443"]), ("network-none", "network-allow-list")
    order = world.order("fake", network=Network(mode="allow-list", allow=("example.com:443",)))
    reporter = MemoryReporter()
    attempt = world.attempt(order, reporter)
    (attempt.directory.path / "egress.json").write_bytes(b"")
    attempt.rebooted = True
    steps.execute(attempt)
    (result,) = reporter.results
    assert result.failure is not None and result.failure.reason == "NODE_REBOOTED"
    assert result.sandbox_report == b""
