"""While the container runs: start it at most once, watch its limits, ship its output, end it when told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from animus_agent.attempt import egress, fence, metrics
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import LEASE_EXPIRED, Abandoned, AttemptFailed, Failure, FailureClass
from animus_agent.attempt.prepare import LOG_FILE_FACTOR, handle_of, work_folder
from animus_agent.errors import AgentError, OutputRefused, SpoolUnavailable
from animus_agent.sandbox import logs
from animus_agent.sandbox.driver import TERMINAL, Collected, Phase
from animus_kit import retry
from animus_kit.log import get_logger

log = get_logger(__name__)

POLL_SECONDS = 0.1
END_SECONDS = 5.0
METRICS_EVERY = 5


def run(attempt: Attempt) -> None:
    """Returns when the container has ended and everything about its end is known. Raises AttemptFailed, Abandoned."""
    driver, handle = attempt.ports.driver, attempt.handle
    assert handle is not None
    with egress.closing(attempt):
        phase = driver.recover(handle)
        # What is about to start would not start if the fence had it stand still.
        attempt.runs = phase not in (Phase.PREPARED, Phase.STARTING)
        if phase is Phase.PREPARED:
            _await_lease(attempt)
            attempt.check()
            _mark_start(attempt)
            driver.start(handle, egress.opener(attempt))
        elif phase is Phase.STARTING:
            _await_lease(attempt)
            attempt.check()
            # It was made to stand still without a lease, and so cannot be started; nothing of the step has run yet.
            fence.go_on(attempt)
            _mark_start(attempt)
            egress.open_for(attempt)
            driver.resume_start(handle)
        elif phase is Phase.RUNNING:
            egress.reopen(attempt)
        attempt.runs = True
        _watch(attempt)
    # Whatever is told from here on, nothing of it runs any more: also where conmon died and its container went on.
    end(attempt)
    _insist(attempt, lambda: attempt.ports.reporter.state("FINISHING"))
    _insist(attempt, lambda: ship(attempt, final=True))
    assert attempt.collected is not None
    failure = _of_device(attempt, judge(attempt, attempt.collected))
    if failure is not None:
        raise AttemptFailed(failure.failure_class, failure.reason, failure.message)
    _read_metrics(attempt)


def _mark_start(attempt: Attempt) -> None:
    clock = attempt.ports.clock
    attempt.directory.mark("run", monotonic=clock.monotonic(), wall=clock.now().timestamp())


def _watch(attempt: Attempt) -> None:
    driver, handle, clock = attempt.ports.driver, attempt.handle, attempt.ports.clock
    assert handle is not None
    # The monotonic clock goes on through a restart of the agent; a reboot was recognised before.
    started = attempt.directory.read("run").get("monotonic", clock.monotonic())
    standstill = fence.Standstill(attempt)
    # Before anything is written, here and below: it waits for no disk.
    standstill.follow(clock.monotonic())
    # Told again by a process that adopts it: the one before may have died before it could.
    told = _told_running(attempt)
    term_sent: float | None = None
    turn = 0
    while driver.status(handle, POLL_SECONDS) not in TERMINAL:
        now = clock.monotonic()
        turn += 1
        standstill.follow(now)
        told = told or _told_running(attempt)
        with suppress(SpoolUnavailable):
            # It stays in the container's log, from where the next turn takes it.
            ship(attempt, points=turn % METRICS_EVERY == 0)
        if _log_is_full(attempt):
            message = f"more than {attempt.order.limits.log_bytes} bytes of log"
            attempt.kill(Failure(FailureClass.LOG_LIMIT, "LOG_LIMIT", message))
        elif now >= started + attempt.order.timeout_seconds + standstill.seconds(now):
            message = f"ran longer than {attempt.order.timeout_seconds} s"
            attempt.kill(Failure(FailureClass.TIMEOUT, "TIMEOUT", message))
        if not attempt.wake.is_set():
            continue
        if term_sent is None and not _at_once(attempt) and driver.terminate(handle):
            term_sent = now
        elif term_sent is None or now >= term_sent + attempt.order.termination_grace_seconds:
            driver.end(handle, POLL_SECONDS)
    if attempt.abandoned:
        raise Abandoned
    if not told:
        _insist(attempt, lambda: attempt.ports.reporter.state("RUNNING"))


def _await_lease(attempt: Attempt) -> None:
    """Nothing begins to run that would have to stand still at once."""
    while attempt.fenced.is_set():
        attempt.check()
        attempt.ports.pause(POLL_SECONDS)


def _told_running(attempt: Attempt) -> bool:
    try:
        attempt.ports.reporter.state("RUNNING")
    except SpoolUnavailable as error:
        log.error("not told yet", attempt=attempt.name, error_text=str(error))
        return False
    return True


def _insist(attempt: Attempt, tell: Callable[[], None]) -> None:
    """Until it is kept: a disk that is full now has room again later, and what is told is told in order."""
    for seconds in retry.backoff(0.1, 5.0):
        try:
            return tell()
        except SpoolUnavailable as error:
            attempt.check_abandoned()
            log.error("not told yet", attempt=attempt.name, error_text=str(error))
            attempt.ports.pause(seconds)


def _log_is_full(attempt: Attempt) -> bool:
    """By what the step wrote, or, where it is torn into very short lines, by what that takes on disk."""
    limit = attempt.order.limits.log_bytes
    size = logs.size(attempt.ports.driver.log_path(attempt.handle))  # type: ignore[arg-type]
    cursor = attempt.ports.reporter.log_cursor()
    return size >= limit * LOG_FILE_FACTOR or (cursor.text >= limit and size > cursor.raw)


def end(attempt: Attempt) -> None:
    """Sees to it that no process of the attempt is left, however often that takes: its end is told after this, and
    then the step may be given to another node. Raises nothing."""
    for seconds in retry.backoff(0.1, 10.0):
        try:
            if _ended(attempt):
                return
            log.error("a container does not end", attempt=attempt.name)
        except Exception:
            log.exception("a container cannot be ended", attempt=attempt.name)
        attempt.ports.pause(seconds)


def _ended(attempt: Attempt) -> bool:
    if attempt.dead:
        return True
    driver = attempt.ports.driver
    attempt.handle = handle_of(attempt)
    if attempt.handle is None:
        return True
    if driver.status(attempt.handle) is not Phase.EXITED and not driver.end(attempt.handle, END_SECONDS):
        return False
    attempt.collected = driver.collect(attempt.handle)
    attempt.dead = True
    return True


def _at_once(attempt: Attempt) -> bool:
    """A stale attempt, a lost lease and a flood of log get no time to say goodbye."""
    intent = attempt.kill_intent()
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
    reporter = attempt.ports.reporter
    while _ship_log(attempt, final=final):
        pass
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


def _ship_log(attempt: Attempt, *, final: bool) -> bool:
    """A piece of the log; whether there may be more. Raises SpoolUnavailable."""
    reporter, path = attempt.ports.reporter, attempt.ports.driver.log_path(attempt.handle)  # type: ignore[arg-type]
    chunks = logs.read(path, reporter.log_cursor(), final=final)
    kept = [chunk for chunk in chunks if chunk.offset < attempt.order.limits.log_bytes]
    if kept:
        reporter.log(kept)
    return bool(kept)


def ship_rest(attempt: Attempt) -> None:
    """After a failure: what the container had written before its end, as far as it can still be read."""
    if attempt.contract is None or attempt.handle is None:
        return
    with suppress(AgentError, OSError):
        while _ship_log(attempt, final=True):
            pass


def judge(attempt: Attempt, collected: Collected) -> Failure | None:
    """Kill intent, then the kernel's counter, then the exit code; None when the step succeeded."""
    intent = attempt.kill_intent()
    if intent is not None:
        return intent
    if collected.usage.oom_kills:
        message = f"the kernel killed {collected.usage.oom_kills} process(es) at the memory limit"
        return Failure(FailureClass.OUT_OF_MEMORY, "OUT_OF_MEMORY", message)
    if collected.backstop:
        if fence.stood_still(attempt):
            return LEASE_EXPIRED
        message = f"ran longer than {attempt.order.timeout_seconds} s, and was ended while no agent was there"
        return Failure(FailureClass.TIMEOUT, "TIMEOUT", message)
    if collected.phase is Phase.LOST or collected.exit_code is None:
        return Failure(FailureClass.LOST_CONTAINER, "CONTAINER_LOST", "nobody saw how the container ended")
    if collected.exit_code == 0:
        return None
    if _volume_full(attempt):
        return Failure(FailureClass.DISK_LIMIT, "OUTPUT_VOLUME_FULL", "the outputs filled their volume")
    return Failure(FailureClass.USER_ERROR, "NONZERO_EXIT", f"exit status {_named(collected.exit_code)}")


def _named(code: int) -> str:
    """128 + n is how a process that signal n ended is told."""
    try:
        return f"{code} ({signal.Signals(code - 128).name})"
    except ValueError:
        return str(code)


def _of_device(attempt: Attempt, failure: Failure | None) -> Failure | None:
    """What ran on a GPU that failed meanwhile is not the step's fault, and no result either."""
    if failure is not None and failure.failure_class is not FailureClass.USER_ERROR:
        return failure
    trouble = attempt.ports.gpus.trouble(attempt.order.gpu_uuids or ())
    return Failure(FailureClass.INFRASTRUCTURE, "GPU_FAILED", trouble[:4000]) if trouble else failure


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
