"""A step: what is queued."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from animus_orchestrator.domain.attempt import Attempt, Output
from animus_orchestrator.domain.failure import RULES, FailureClass
from animus_orchestrator.domain.retry import Again, Over, RetryPolicy, decide


class StepState(StrEnum):
    """The names are those of `Step.State` on the wire."""

    PENDING = "PENDING"
    READY = "READY"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    CANCELING = "CANCELING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SKIPPED = "SKIPPED"
    CACHED = "CACHED"
    WAITING = "WAITING"


TERMINAL = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELED, StepState.SKIPPED, StepState.CACHED})
DONE = frozenset({StepState.SUCCEEDED, StepState.CACHED})
"""States whose outputs the next steps may use."""
HELD = frozenset({StepState.LEASED, StepState.RUNNING, StepState.CANCELING})
"""States in which an agent holds the current attempt."""


@dataclass(frozen=True, slots=True)
class Step:
    """`current_attempt` is the newest attempt's number, 0 before the first. `ran_attempts` counts those that reached
    RUNNING, `early_losses` those that ended before it without the step's own doing."""

    uid: int
    name: str
    ordinal: int
    state: StepState
    dependencies: tuple[str, ...] = ()
    retry: RetryPolicy = RetryPolicy()
    current_attempt: int = 0
    ran_attempts: int = 0
    early_losses: int = 0
    not_before: datetime | None = None
    quiet_at: datetime | None = None
    """Until then processes of the last attempt may still live somewhere."""
    action_digest: str = ""
    cpu_millis: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    outputs: tuple[Output, ...] = ()
    reason: str = ""
    message: str = ""
    ready_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


def make_ready(step: Step, now: datetime) -> Step:
    """PENDING → READY, or RETRYING → READY once its time has come."""
    return replace(step, state=StepState.READY, ready_time=step.ready_time or now, not_before=None, quiet_at=None)


def lease(step: Step) -> Step:
    """READY → LEASED under the next epoch. Why the attempt before it ended is that attempt's to tell."""
    return replace(step, state=StepState.LEASED, current_attempt=step.current_attempt + 1, reason="", message="")


def follow(step: Step, before: Attempt, after: Attempt) -> Step:
    """Takes over what a live attempt reported."""
    if after.ran and not before.ran:
        step = replace(
            step,
            ran_attempts=step.ran_attempts + 1,
            start_time=step.start_time or after.start_time,
            state=StepState.RUNNING if step.state is StepState.LEASED else step.state,
        )
    return step


def succeed(step: Step, outputs: tuple[Output, ...], now: datetime) -> Step:
    return replace(
        step, state=StepState.SUCCEEDED, outputs=outputs, reason="", message="", end_time=now, not_before=None
    )


def finish_canceled(step: Step, now: datetime) -> Step:
    return replace(step, state=StepState.CANCELED, reason="CANCELED", message="", end_time=now, not_before=None)


def skip(step: Step, because: str, now: datetime) -> Step:
    return replace(
        step,
        state=StepState.SKIPPED,
        reason="DEPENDENCY_FAILED",
        message=f"step {because} did not succeed",
        end_time=now,
        not_before=None,
    )


def fail_or_retry(step: Step, attempt: Attempt, now: datetime, lease_until: datetime | None) -> Step:
    """Decides what follows an ended attempt that did not succeed.

    `lease_until` is given when the attempt's processes are not known to be dead.
    """
    failure = attempt.failure_class or FailureClass.INFRASTRUCTURE
    losses = step.early_losses + (not attempt.ran and RULES[failure].ours)
    reason = attempt.reason or failure.value
    match decide(
        step.retry,
        failure,
        ran=attempt.ran,
        # All that were no early losses: one that ended by the step's own doing before it ran (an image that is refused,
        # a command that is not there) counts as well, or it would be tried for ever.
        counted=step.current_attempt - losses,
        early_losses=losses,
        now=now,
        lease_until=lease_until,
    ):
        case Again(not_before):
            return replace(
                step,
                state=StepState.RETRYING,
                early_losses=losses,
                not_before=not_before,
                quiet_at=lease_until,
                reason=reason,
                message=attempt.message,
            )
        case Over(over):
            message = attempt.message or f"attempt {attempt.number} ended with {failure.value}"
            if over != "NOT_RETRIED":
                message = f"{message} ({over})"
            return replace(
                step,
                state=StepState.FAILED,
                early_losses=losses,
                not_before=None,
                reason=reason,
                message=message,
                end_time=now,
            )


def cancel(step: Step, now: datetime) -> Step:
    """What no agent holds is canceled at once; what is held waits for its node."""
    if step.terminal or step.state is StepState.CANCELING:
        return step
    if step.state in HELD:
        return replace(step, state=StepState.CANCELING, reason="CANCELED")
    if step.quiet_at is not None and step.quiet_at > now:
        # The lost attempt's lease still runs: CANCELED must mean that nothing runs any more.
        return replace(step, not_before=step.quiet_at)
    return finish_canceled(step, now)


def held_by(step: Step, attempt: Attempt) -> bool:
    """Whether this attempt is the one that may still write: the fence."""
    return step.current_attempt == attempt.number and not attempt.terminal and step.state in HELD
