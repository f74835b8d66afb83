"""While the container runs: start it at most once, watch its limits, ship its output, end it when told to."""

from __future__ import annotations

import os
import signal

from animus_agent.attempt import egress, metrics
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import Abandoned, AttemptFailed, Failure, FailureClass
from animus_agent.attempt.prepare import work_folder
from animus_agent.errors import OutputRefused
from animus_agent.sandbox import logs
from animus_agent.sandbox.driver import TERMINAL, Collected, Phase

POLL_SECONDS = 0.1
METRICS_EVERY = 5


def run(attempt: Attempt) -> None:
    """Returns when the container has ended and everything about its end is known. Raises AttemptFailed, Abandoned."""
    driver, handle = attempt.ports.driver, attempt.handle
    assert handle is not None
    with egress.closing(attempt):
        phase = driver.recover(handle)
        if phase is Phase.PREPARED:
            attempt.check()
            _mark_start(attempt)
            driver.start(handle, egress.opener(attempt))
        elif phase is Phase.STARTING:
            egress.open_for(attempt)
            driver.resume_start(handle)
        elif phase is Phase.RUNNING:
            egress.reopen(attempt)
        # Told again by a process that adopts it: the one before may have died before it could.
        attempt.ports.reporter.state("RUNNING")
        _watch(attempt)
    attempt.ports.reporter.state("FINISHING")
    attempt.collected = driver.collect(handle)
    if attempt.collected.phase is Phase.LOST:
        # conmon died; the container may well go on without anybody who reads its output or sees its end.
        driver.signal(handle, signal.SIGKILL)
    ship(attempt, final=True)
    failure = judge(attempt, attempt.collected)
    if failure is not None:
        raise AttemptFailed(failure.failure_class, failure.reason, failure.message)
    _read_metrics(attempt)


def _mark_start(attempt: Attempt) -> None:
    clock = attempt.ports.clock
    attempt.directory.mark("run", monotonic=clock.monotonic(), wall=clock.now().timestamp())


def _watch(attempt: Attempt) -> None:
    driver, handle, clock = attempt.ports.driver, attempt.handle, attempt.ports.clock
    assert handle is not None
    limits = attempt.order.limits
    # The monotonic clock goes on through a restart of the agent; a reboot was recognised before.
    started = attempt.directory.read("run").get("monotonic", clock.monotonic())
    deadline = started + attempt.order.timeout_seconds
    term_sent: float | None = None
    killed = False
    turn = 0
    while driver.status(handle, POLL_SECONDS) not in TERMINAL:
        now = clock.monotonic()
        turn += 1
        ship(attempt, points=turn % METRICS_EVERY == 0)
        if logs.size(driver.log_path(handle)) > limits.log_bytes + limits.log_bytes // 4:
            attempt.kill(Failure(FailureClass.LOG_LIMIT, "LOG_LIMIT", f"more than {limits.log_bytes} bytes of log"))
        elif now >= deadline:
            message = f"ran longer than {attempt.order.timeout_seconds} s"
            attempt.kill(Failure(FailureClass.TIMEOUT, "TIMEOUT", message))
        if not attempt.wake.is_set() or killed:
            continue
        if term_sent is None and not _at_once(attempt):
            driver.signal(handle, signal.SIGTERM)
            term_sent = now
        if term_sent is None or now >= term_sent + attempt.order.termination_grace_seconds:
            driver.signal(handle, signal.SIGKILL)
            killed = True
    if attempt.abandoned:
        raise Abandoned


def _at_once(attempt: Attempt) -> bool:
    """A stale attempt, a lost lease and a flood of log get no time to say goodbye."""
    intent = attempt.directory.kill_intent()
    return (
        attempt.abandoned
        or intent is None
        or intent.failure_class
        in (
            FailureClass.LOST_NODE,
            FailureClass.LOG_LIMIT,
        )
    )


def ship(attempt: Attempt, *, final: bool = False, points: bool = True) -> None:
    """Hands new output and metric points to the reporter, from where the last one that was kept ended."""
    reporter, path = attempt.ports.reporter, attempt.ports.driver.log_path(attempt.handle)  # type: ignore[arg-type]
    limit = attempt.order.limits.log_bytes
    while chunks := logs.read(path, reporter.log_cursor(), final=final):
        kept = [chunk for chunk in chunks if chunk.offset < limit]
        if not kept:
            break
        reporter.log(kept)
    if not points and not final:
        return
    assert attempt.volume is not None
    work = work_folder(attempt.volume)
    while True:
        count, offset = reporter.points_cursor()
        try:
            found, after = metrics.read_points(work, offset, count, final=final)
        except OutputRefused:
            # Told at the end, by _read_metrics; a half-written file is no fault yet.
            return
        if after == offset:
            return
        reporter.points(count, found, after)


def judge(attempt: Attempt, collected: Collected) -> Failure | None:
    """Kill intent, then the kernel's counter, then the exit code; None when the step succeeded."""
    intent = attempt.directory.kill_intent()
    if intent is not None:
        return intent
    if collected.usage.oom_kills:
        message = f"the kernel killed {collected.usage.oom_kills} process(es) at the memory limit"
        return Failure(FailureClass.OUT_OF_MEMORY, "OUT_OF_MEMORY", message)
    if collected.phase is Phase.LOST or collected.exit_code is None:
        return Failure(FailureClass.LOST_CONTAINER, "CONTAINER_LOST", "nobody saw how the container ended")
    if collected.exit_code == 0:
        return None
    if _volume_full(attempt):
        return Failure(FailureClass.DISK_LIMIT, "OUTPUT_VOLUME_FULL", "the outputs filled their volume")
    return Failure(FailureClass.USER_ERROR, "NONZERO_EXIT", f"exit status {collected.exit_code}")


def _volume_full(attempt: Attempt) -> bool:
    assert attempt.volume is not None
    if attempt.ports.quota.kind == "none":
        return False
    state = os.statvfs(attempt.volume.path)
    return state.f_bavail * state.f_frsize < (1 << 20) or state.f_favail < 16


def _read_metrics(attempt: Attempt) -> None:
    assert attempt.volume is not None
    work = work_folder(attempt.volume)
    attempt.metrics = metrics.read_metrics(work)
    count, offset = attempt.ports.reporter.points_cursor()
    # Refused lines stopped the shipping; say so now.
    metrics.read_points(work, offset, count, final=True)
