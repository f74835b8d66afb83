"""The process dies between any two lines of the list; another goes on with the folder alone. Nothing runs twice."""

from collections.abc import Callable

import pytest

from animus_agent.attempt import steps
from animus_agent.attempt.failure import CANCELED, STALE, FailureClass
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import MemoryReporter, World
from animus_kit.testing.fixtures import requires_runc

# Counts its own runs in a place that outlives a container, which no step of a user could reach.
SCRIPT = "echo ran; sleep 0.1; echo 1 > /animus/outputs/o/x"


class Died(BaseException):
    """As little is caught of it as of kill -9."""


def die_before(name: str) -> Callable[[str], None]:
    def between(step: str) -> None:
        if step == name:
            raise Died

    return between


def go_on(world: World, order: tuple[str, bytes, bytes], reporter: MemoryReporter) -> None:
    attempt = world.attempt(order, reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)


@requires_runc
@pytest.mark.parametrize("step", [step.__name__ for step in steps.STEPS])
def test_death_before_a_step(runc_world: World, step: str) -> None:
    tree = runc_world.blobs.put_tree({"a": b"alpha"})
    order = runc_world.order("/bin/sh", "-c", SCRIPT, inputs={"data": tree}, outputs=("o",))
    reporter = MemoryReporter()
    with pytest.raises(Died):
        steps.execute(runc_world.attempt(order, reporter), die_before(step))
    assert reporter.results == []
    go_on(runc_world, order, reporter)
    (result,) = reporter.results
    assert result.failure is None
    assert reporter.text == b"ran\n"


@requires_runc
def test_death_between_create_and_start(runc_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = runc_world.order("/bin/sh", "-c", SCRIPT, outputs=("o",))
    reporter = MemoryReporter()
    original = RuncDriver._release

    def die(self, container):
        raise Died

    monkeypatch.setattr(RuncDriver, "_release", die)
    with pytest.raises(Died):
        steps.execute(runc_world.attempt(order, reporter))
    monkeypatch.setattr(RuncDriver, "_release", original)
    go_on(runc_world, order, reporter)
    assert reporter.results[0].failure is None
    assert reporter.text == b"ran\n"


@requires_runc
def test_death_before_create_is_a_lost_container(runc_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was created cannot be known: it does not run again."""
    order = runc_world.order("/bin/sh", "-c", SCRIPT, outputs=("o",))
    reporter = MemoryReporter()

    def die(self, handle):
        raise Died

    original = RuncDriver._create
    monkeypatch.setattr(RuncDriver, "_create", die)
    with pytest.raises(Died):
        steps.execute(runc_world.attempt(order, reporter))
    monkeypatch.setattr(RuncDriver, "_create", original)
    go_on(runc_world, order, reporter)
    assert reporter.results[0].failure is not None
    assert reporter.results[0].failure.failure_class is FailureClass.LOST_CONTAINER
    assert reporter.text == b""


@requires_runc
def test_a_kill_intent_survives_its_process(runc_world: World) -> None:
    order = runc_world.order("/bin/sh", "-c", "sleep 30")
    reporter = MemoryReporter()
    attempt = runc_world.attempt(order, reporter)
    with pytest.raises(Died):
        steps.execute(attempt, die_before("run"))
    attempt.kill(CANCELED)
    go_on(runc_world, order, reporter)
    assert reporter.results[0].failure == CANCELED


@requires_runc
def test_a_stale_attempt_stays_stale_and_its_container_ends(runc_world: World) -> None:
    order = runc_world.order("/bin/sh", "-c", "sleep 30", grace=0)
    attempt = runc_world.attempt(order)
    with pytest.raises(Died):
        steps.execute(attempt, die_before("run"))
    attempt.ports.driver.start(attempt.handle)
    attempt.kill(STALE)
    reporter = MemoryReporter()
    go_on(runc_world, order, reporter)
    assert reporter.results == []
    assert runc_world.driver.ids() == set()


def test_a_timeout_counts_through_a_restart(fake_world: World) -> None:
    order = fake_world.order("fake", "seconds=60", timeout=1, grace=0)
    reporter = MemoryReporter()
    attempt = fake_world.attempt(order, reporter)
    with pytest.raises(Died):
        steps.execute(attempt, die_before("run"))
    attempt.directory.mark("run", monotonic=fake_world.clock.monotonic() - 5, wall=0.0)
    attempt.ports.driver.start(attempt.handle)
    go_on(fake_world, order, reporter)
    assert reporter.results[0].failure.reason == "TIMEOUT"


@requires_runc
def test_a_container_that_does_not_answer_is_started_by_runc(
    runc_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RuncDriver, "_release", lambda self, container: False)
    order = runc_world.order("/bin/sh", "-c", SCRIPT, outputs=("o",))
    reporter = MemoryReporter()
    go_on(runc_world, order, reporter)
    assert reporter.results[0].failure is None
