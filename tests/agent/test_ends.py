"""How an attempt ends, whatever comes in between: canceled in each phase, a disk that fails, a container that will not
die. Its end is told once, and not before its last process is dead."""

import dataclasses
import errno
import os
from collections.abc import Callable

import pytest

from animus_agent.attempt import outputs, steps
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import CANCELED, STALE, FailureClass
from animus_agent.attempt.ports import Result
from animus_agent.errors import SpoolUnavailable
from animus_agent.sandbox.driver import Phase
from animus_agent.sandbox.logs import Chunk
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import MemoryReporter, World, limits
from animus_kit.testing.fixtures import requires_runc

OUT = "echo 1 > /animus/outputs/o/x"
NEVER_CANCELED = ("sign_provenance", "report")
"""By then everything is stored: the end was under way before the cancel came."""


class DeadFirst(MemoryReporter):
    """Takes no end of a container that lives."""

    def __init__(self, driver: RuncDriver) -> None:
        super().__init__()
        self._driver = driver

    def result(self, result: Result) -> None:
        assert all(not self._driver._cgroups.processes(container) for container in self._driver.ids())
        super().result(result)


def at(step: str, act: Callable[[Attempt], None], attempt: Attempt) -> Callable[[str], None]:
    return lambda name: act(attempt) if name == step else None


@requires_runc
@pytest.mark.parametrize("step", [step.__name__ for step in steps.STEPS])
def test_a_cancel_in_each_phase(runc_world: World, step: str) -> None:
    tree = runc_world.blobs.put_tree({"a": b"alpha"})
    order = runc_world.order("/bin/sh", "-c", OUT, inputs={"data": tree}, outputs=("o",))
    reporter = DeadFirst(runc_world.driver)
    attempt = runc_world.attempt(order, reporter)
    steps.execute(attempt, at(step, lambda one: one.kill(CANCELED), attempt))
    steps.clean_up(attempt)
    (result,) = reporter.results
    assert result.failure == (None if step in NEVER_CANCELED else CANCELED)
    if result.failure:
        assert not result.outputs and not result.provenance
    assert ("RUNNING" in reporter.states) == (steps.STEPS.index(getattr(steps, step)) > 5)


@requires_runc
@pytest.mark.parametrize("step", [step.__name__ for step in steps.STEPS])
def test_a_stale_attempt_reports_nothing_in_any_phase(runc_world: World, step: str) -> None:
    reporter = DeadFirst(runc_world.driver)
    attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", OUT, outputs=("o",)), reporter)
    steps.execute(attempt, at(step, lambda one: one.kill(STALE), attempt))
    # What was under way when the word came is refused by dispatch: its attempt is not current.
    assert reporter.results == [] or step == "report"
    steps.clean_up(attempt)
    assert runc_world.driver.ids() == set()


@requires_runc
def test_no_end_is_told_of_a_container_that_will_not_die(runc_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retried until it is dead: the step could be given to another node otherwise."""
    waited: list[float] = []
    ending = RuncDriver.end
    answers = iter([False, OSError(errno.EIO, "the kernel does not answer"), False])

    def reluctant(self, handle, wait_seconds=0.0):
        answer = next(answers, None)
        if isinstance(answer, OSError):
            raise answer
        return ending(self, handle, wait_seconds) if answer is None else answer

    monkeypatch.setattr(RuncDriver, "end", reluctant)
    reporter = DeadFirst(runc_world.driver)
    attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", "sleep 60"), reporter)
    attempt.ports = dataclasses.replace(attempt.ports, pause=waited.append)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the log cannot be read")

    monkeypatch.setattr("animus_agent.attempt.running.ship", broken)
    steps.execute(attempt)
    assert len(waited) >= 3
    assert reporter.results[0].failure.reason == "NODE_IO_ERROR"
    steps.clean_up(attempt)


class FullDisk(MemoryReporter):
    """Keeps nothing the first times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.left = dict.fromkeys(("state", "log"), failures)

    def _full(self, what: str) -> None:
        self.left[what] -= 1
        if self.left[what] >= 0:
            raise SpoolUnavailable("no space left on device")

    def state(self, state: str) -> None:
        if state != "PREPARING":
            self._full("state")
        super().state(state)

    def log(self, chunks: list[Chunk]) -> None:
        self._full("log")
        super().log(chunks)


@requires_runc
def test_a_full_disk_loses_nothing_and_changes_no_order(runc_world: World) -> None:
    reporter = FullDisk(4)
    script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo $i; sleep 0.02; done"
    attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", script), reporter)
    attempt.ports = dataclasses.replace(attempt.ports, pause=lambda seconds: None)
    steps.execute(attempt)
    assert reporter.results[0].failure is None
    assert reporter.text.split() == [str(i).encode() for i in range(1, 21)]
    assert reporter.states == ["PREPARING", "RUNNING", "FINISHING"]
    steps.clean_up(attempt)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, (FailureClass.INFRASTRUCTURE, "NODE_IO_ERROR")),
        (errno.ENOSPC, (FailureClass.INFRASTRUCTURE, "NODE_DISK_FULL")),
        (errno.ELOOP, (FailureClass.USER_ERROR, "OUTPUT_UNREADABLE")),
    ],
)
def test_whose_fault_an_unreadable_output_is(
    fake_world: World, monkeypatch: pytest.MonkeyPatch, number: int, expected: tuple[FailureClass, str]
) -> None:
    """A disk of the node's that fails is not the step's error, and is tried again elsewhere."""

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(outputs.folder, "build", failing)
    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(fake_world.order("fake", "write=/animus/outputs/o/x:1", outputs=("o",)), reporter))
    failure = reporter.results[0].failure
    assert (failure.failure_class, failure.reason) == expected


def test_an_attempt_of_another_boot_is_lost_and_never_begins(fake_world: World) -> None:
    for begun in (False, True):
        reporter = MemoryReporter()
        order = fake_world.order("fake", "seconds=60", "out=said")
        attempt = fake_world.attempt(order, reporter)
        if begun:
            steps.verify_contract(attempt)
            for step in (steps.unpack_image, steps.prepare_sandbox):
                step(attempt)
            attempt.ports.driver.start(attempt.handle)
        again = fake_world.attempt(order, reporter)
        again.rebooted = True
        steps.execute(again)
        failure = reporter.results[0].failure
        assert (failure.failure_class, failure.reason) == (FailureClass.LOST_CONTAINER, "NODE_REBOOTED")
        assert reporter.text == (b"said\n" if begun else b"")
        assert not begun or again.handle is not None
        assert (again.directory.path / "fake.json").exists() == begun


@requires_runc
def test_how_a_step_killed_itself_is_told(runc_world: World) -> None:
    """By a real fault; a signal that the first process sends to itself the kernel drops (docs/execution.md)."""
    reporter = MemoryReporter()
    # busybox sh: the child is killed, the shell passes its status on.
    steps.execute(runc_world.attempt(runc_world.order("/bin/sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"), reporter))
    (result,) = reporter.results
    assert (result.exit_code, result.failure.message) == (139, "exit status 139 (SIGSEGV)")


@requires_runc
def test_the_first_process_does_not_hear_itself(runc_world: World) -> None:
    reporter = MemoryReporter()
    steps.execute(runc_world.attempt(runc_world.order("/bin/sh", "-c", "kill -SEGV $$; echo alive"), reporter))
    assert reporter.results[0].failure is None and reporter.text == b"alive\n"


@requires_runc
def test_a_container_that_was_let_go_and_not_read_never_began(runc_world: World) -> None:
    """A process that is killed between the two leaves a container whose end is runc's own, and no fault of the step's."""
    for _ in range(20):
        attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", OUT, outputs=("o",)))
        for step in steps.STEPS[: steps.STEPS.index(steps.run)]:
            step(attempt)
        driver, handle = runc_world.driver, attempt.handle
        assert isinstance(driver, RuncDriver) and handle is not None
        (attempt.directory.path / "starting").touch()
        driver._create(handle)
        os.close(os.open(driver._state / handle.id / "exec.fifo", os.O_RDONLY | os.O_NONBLOCK))
        assert driver.status(handle, 10) is Phase.EXITED
        found = driver.collect(handle)
        driver.destroy(handle)
        runc_world.quota.give_back(attempt.volume_name)
        attempt.held.close()
        if found.exit_code != 0:  # it had not yet written when the reader went
            assert found.phase is Phase.LOST and found.exit_code is None
            return
    raise AssertionError("it was never too late")


@requires_runc
def test_a_deaf_step_ends_at_its_timeout(runc_world: World) -> None:
    """Without waiting out a grace that nobody uses."""
    reporter = DeadFirst(runc_world.driver)
    order = runc_world.order("/bin/sh", "-c", "trap '' TERM; sleep 600", timeout=1, grace=600)
    steps.execute(runc_world.attempt(order, reporter))
    assert reporter.results[0].failure.failure_class is FailureClass.TIMEOUT


@requires_runc
def test_a_fork_bomb_under_little_cpu_ends_at_its_timeout(runc_world: World) -> None:
    reporter = DeadFirst(runc_world.driver)
    script = "b() { b & b & }; b; while true; do b; done 2>/dev/null"
    order = runc_world.order("/bin/sh", "-c", script, timeout=1, cpu=100, limits=limits(pids=512), grace=0)
    attempt = runc_world.attempt(order, reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    assert reporter.results[0].failure.failure_class is FailureClass.TIMEOUT
    assert runc_world.driver.ids() == set()


@requires_runc
@pytest.mark.parametrize(
    "script",
    [
        # Long lines: the text alone is too much. Short ones: what they take on disk.
        "yes 0123456789012345678901234567890123456789012345678901234567890123456789",
        "yes ''",
        # A burst before anybody can look, by a step that then says that all is well.
        "dd if=/dev/zero bs=1048576 count=64 | tr '\\0' x; sleep 600",
    ],
)
def test_a_log_is_bounded_by_the_kernel(runc_world: World, script: str) -> None:
    reporter = DeadFirst(runc_world.driver)
    order = runc_world.order("/bin/sh", "-c", script, limits=limits(log_bytes=1 << 20), timeout=60)
    attempt = runc_world.attempt(order, reporter)
    steps.execute(attempt)
    assert reporter.results[0].failure.failure_class is FailureClass.LOG_LIMIT
    assert (attempt.directory.path / "log").stat().st_size <= 4 << 20
    assert 0 < len(reporter.text) <= (1 << 20) + (64 << 10)
    steps.clean_up(attempt)


@requires_runc
def test_signals_are_by_default_what_they_are_elsewhere(runc_world: World) -> None:
    reporter = MemoryReporter()
    steps.execute(runc_world.attempt(runc_world.order("/bin/cat", "/proc/self/status"), reporter))
    (ignored,) = [line for line in reporter.text.decode().splitlines() if line.startswith("SigIgn")]
    # 32 and 33 belong to the C library's threads: no program can set them, GNU make leaves them ignored, and a library in
    # the container that needs them sets them itself.
    assert int(ignored.split()[1], 16) & ~(0b11 << 31) == 0


@requires_runc
def test_the_backstop_is_told_as_what_it_is(runc_world: World) -> None:
    """conmon's own limit, for when no agent is there."""
    order = runc_world.order("/bin/sh", "-c", "sleep 60", timeout=60)
    reporter = MemoryReporter()
    attempt = runc_world.attempt(order, reporter)
    prepare = runc_world.driver.prepare
    runc_world.driver.prepare = lambda spec: prepare(dataclasses.replace(spec, backstop_seconds=1))
    try:
        steps.execute(attempt)
    finally:
        runc_world.driver.prepare = prepare
    assert (reporter.results[0].failure.failure_class, reporter.results[0].exit_code) == (FailureClass.TIMEOUT, None)
    steps.clean_up(attempt)
