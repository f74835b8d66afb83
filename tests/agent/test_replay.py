"""An attempt runs at most once on a node, whatever is sent again, doubled, late or put back from a copy."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_agent import node
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.held import Holdings
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.settings import Settings
from animus_agent.spool import Spool
from animus_agent.testing import World
from animus_kit.clock import SystemClock
from animus_kit.ids import RandomIds
from tests.agent.control import AgentProcess, ControlPlane, until

State = run_pb2.Attempt.State
Intent = pb.AttemptDirective.Intent


class Process:
    """One life of an agent without its session: what it is told comes from the test."""

    def __init__(self, folder: Path, world: World) -> None:
        self.settings = Settings(agent_state_dir=folder / "state", agent_run_dir=folder / "run", agent_driver="fake")
        self.parts = node.assemble(self.settings)
        self.spool = Spool(folder / "state" / "spool.db", RandomIds())
        self.holdings = Holdings(
            self.parts,
            self.spool,
            SystemClock(),
            lambda reporter, grant, check: dataclasses.replace(
                world.ports(reporter),  # type: ignore[arg-type]
                driver=self.parts.driver,
                quota=self.parts.quota,
                reporter=reporter,
            ),
            lambda: None,
            max_attempts=8,
            lease_margin=1.0,
        )
        self.holdings.recover()
        self.holdings.resume()

    def assign(self, order: tuple[str, bytes, bytes]) -> None:
        assignment = pb.Assignment(attempt=order[0], contract=order[1], grant=order[2])
        assignment.lease_duration.FromTimedelta(timedelta(seconds=60))
        self.holdings.assign(assignment, SystemClock().monotonic())

    def direct(self, name: str, intent: int, times: int = 2) -> None:
        directive = pb.AttemptDirective(attempt=name, intent=intent)  # type: ignore[arg-type]
        directive.lease_duration.FromTimedelta(timedelta(seconds=60))
        for _ in range(times):
            self.holdings.direct(directive, SystemClock().monotonic())

    def state_of(self, name: str) -> int | None:
        return next((one.state for one in self.holdings.states() if one.attempt == name), None)

    def stop(self) -> None:
        assert self.holdings.join(20)
        self.parts.quota.close()
        self.spool.close()


@pytest.fixture
def life(node_dir: Path, fake_world: World) -> Iterator[Callable[[], Process]]:
    lives: list[Process] = []

    def begin() -> Process:
        lives.append(Process(node_dir / "node", fake_world))
        return lives[-1]

    (node_dir / "node").mkdir(mode=0o711)
    yield begin


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the containers that were started."""
    found: list[str] = []
    start = FakeDriver.start

    def counting(self, handle, *rest):  # type: ignore[no-untyped-def]
        found.append(handle.id)
        return start(self, handle, *rest)

    monkeypatch.setattr(FakeDriver, "start", counting)
    return found


def test_an_assignment_that_comes_again_is_not_taken_again(
    life: Callable[[], Process], fake_world: World, starts: list[str]
) -> None:
    one = life()
    order = fake_world.order("fake")
    for _ in range(3):
        one.assign(order)
    until(lambda: one.state_of(order[0]) == State.STATE_SUCCEEDED, "its end")
    one.assign(order)
    one.direct(order[0], Intent.INTENT_FORGET)
    until(lambda: not one.holdings.states(), "that it is forgotten")
    one.assign(order)
    assert one.holdings.states() == [] and starts == [identifier(order[0])]
    one.stop()
    two = life()
    two.assign(order)
    assert two.holdings.states() == [] and len(starts) == 1
    two.stop()


def test_doubled_and_late_directives_change_nothing(
    life: Callable[[], Process], fake_world: World, starts: list[str]
) -> None:
    one = life()
    order = fake_world.order("fake", "seconds=60")
    one.assign(order)
    until(lambda: one.state_of(order[0]) == State.STATE_RUNNING, "its run")
    one.direct(order[0], Intent.INTENT_KEEP)
    one.direct(order[0], Intent.INTENT_CANCEL)
    until(lambda: one.state_of(order[0]) == State.STATE_CANCELED, "its end")
    for late in (Intent.INTENT_CANCEL, Intent.INTENT_KEEP, Intent.INTENT_FORGET, Intent.INTENT_CANCEL):
        one.direct(order[0], late)
    until(lambda: not one.holdings.states(), "that it is forgotten")
    one.direct(order[0], Intent.INTENT_STALE)
    one.direct("projects/p/runs/r/steps/never/attempts/1", Intent.INTENT_CANCEL)
    assert len(starts) == 1 and list(one.parts.attempts_dir.iterdir()) == []
    one.stop()


def test_a_spool_put_back_from_a_copy_begins_nothing_again(
    life: Callable[[], Process], fake_world: World, starts: list[str], node_dir: Path
) -> None:
    one = life()
    one.stop()
    spool = node_dir / "node" / "state" / "spool.db"
    shutil.copy(spool, node_dir / "copy")
    two = life()
    order = fake_world.order("fake", "seconds=0")
    two.assign(order)
    until(lambda: two.state_of(order[0]) == State.STATE_SUCCEEDED, "its end")
    two.stop()
    for suffix in ("-wal", "-shm"):
        spool.with_name(spool.name + suffix).unlink(missing_ok=True)
    shutil.copy(node_dir / "copy", spool)
    three = life()
    # Its folder told that it was here; without its events it is nobody's, and is not begun again.
    assert three.holdings.states() == []
    three.assign(order)
    assert three.holdings.states() == [] and starts == [identifier(order[0])]
    three.stop()


def test_an_attempt_of_another_boot_is_told_as_lost_and_begins_nothing(
    life: Callable[[], Process], fake_world: World, starts: list[str]
) -> None:
    one = life()
    order = fake_world.order("fake", "seconds=60")
    one.assign(order)
    until(lambda: one.state_of(order[0]) == State.STATE_RUNNING, "its run")
    directory = AttemptDirectory(one.parts.attempts_dir / identifier(order[0]))
    fields = directory.read("attempt")
    directory.mark("attempt", **{**fields, "boot_id": "another"})
    # As after a power cut: the process is gone, and nobody told it to stop anything.
    two = life()
    until(lambda: two.state_of(order[0]) == State.STATE_FAILED, "that it is told as lost")
    result = pb.SpoolEvent.FromString(two.spool.result_of(order[0]) or b"").result
    assert (result.failure_class, result.reason) == (run_pb2.Attempt.FAILURE_CLASS_LOST_CONTAINER, "NODE_REBOOTED")
    assert len(starts) == 1
    one.direct(order[0], Intent.INTENT_STALE)
    one.stop()
    two.stop()


def test_what_is_adopted_without_a_lease_begins_when_it_has_one(
    life: Callable[[], Process], fake_world: World, starts: list[str]
) -> None:
    one = life()
    order = fake_world.order("fake")
    # Accepted by a process that died at once; its lease ran out meanwhile.
    directory = AttemptDirectory(one.parts.attempts_dir / identifier(order[0]))
    directory.create(*order)
    directory.mark("lease", deadline=SystemClock().monotonic() - 1.0)
    one.spool.accept(order[0], pb.SpoolEvent(attempt=order[0]).SerializeToString())
    one.stop()
    two = life()
    until(lambda: directory.read("sandbox"), "its preparation")
    assert two.state_of(order[0]) == State.STATE_PREPARING and starts == []
    two.direct(order[0], Intent.INTENT_KEEP)
    until(lambda: two.state_of(order[0]) == State.STATE_SUCCEEDED, "its end")
    assert starts == [identifier(order[0])]
    two.stop()


def test_no_room_is_stated_where_the_disk_is_full(
    life: Callable[[], Process], fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = life()
    assert one.holdings.room().attempts == 8
    monkeypatch.setattr("animus_agent.disk.MIN_FREE_BYTES", 1 << 62)
    assert one.holdings.room() == pb.Room()
    one.stop()


def test_an_older_spool_is_noticed_by_the_numbers_that_dispatch_has(
    fake_world: World, tmp_path: Path, node_dir: Path
) -> None:
    """Under its old name what it tells next would be taken for repetitions, and lost."""
    control = ControlPlane(tmp_path, fake_world)
    folder = node_dir / "node"
    folder.mkdir(mode=0o711)
    agent = AgentProcess(control, folder, "fake")
    try:
        until(lambda: control.hellos, "the first life", show=lambda: agent.log)
        agent.kill()
        spool = folder / "state" / "spool.db"
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in spool.parent.glob("spool.db*"):
            shutil.copy(path, copy)
        agent.start()
        first = control.assign(control.world.order("fake", "out=one"))
        until(lambda: first.results and not control.held, "the first result", show=lambda: agent.log)
        agent.kill()
        for path in spool.parent.glob("spool.db*"):
            path.unlink()
        for path in copy.iterdir():
            shutil.copy(path, spool.parent)
        agent.start()
        second = control.assign(control.world.order("fake", "out=two"))
        until(lambda: second.results, "the second result", show=lambda: agent.log)
        assert (first.text, second.text) == (b"one\n", b"two\n")
        assert len(first.results) == len(second.results) == 1
        assert len({hello.spool_id for hello in control.hellos}) == 2
    finally:
        agent.close()
        control.close()
