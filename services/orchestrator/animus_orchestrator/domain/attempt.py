"""An attempt: one lease of one step to one agent. Its number is the fencing epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from animus_orchestrator.domain.failure import FailureClass


class AttemptState(StrEnum):
    """The names are those of `Attempt.State` on the wire."""

    LEASED = "LEASED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    FINISHING = "FINISHING"
    CANCELING = "CANCELING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    LOST = "LOST"


TERMINAL = frozenset({AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.CANCELED, AttemptState.LOST})
LIVE = frozenset(AttemptState) - TERMINAL
RESULTS = frozenset({AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.CANCELED})
"""States that an agent may report as the end."""

_ORDER = {
    AttemptState.LEASED: 0,
    AttemptState.PREPARING: 1,
    AttemptState.RUNNING: 2,
    AttemptState.FINISHING: 3,
}


@dataclass(frozen=True, slots=True)
class Output:
    """One output that an attempt produced; counts are the agent's, the manifest behind the digest is the truth."""

    name: str
    manifest_digest: str
    file_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent says about the end of an attempt, already checked against its contract."""

    state: AttemptState
    failure_class: FailureClass | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    outputs: tuple[Output, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """`ran`: it reached RUNNING, and so counts against maxAttempts."""

    step: str
    number: int
    agent: str
    state: AttemptState
    lease_time: datetime
    ran: bool = False
    failure_class: FailureClass | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


def advance(attempt: Attempt, to: AttemptState, now: datetime) -> Attempt:
    """Applies a reported state. Reports may be doubled or late, so that a state already passed changes nothing.

    A canceling attempt stays CANCELING, but that it ran is kept: the count of attempts must not depend on the order
    in which a cancel and a report arrive.
    """
    if attempt.terminal or to not in _ORDER:
        return attempt
    ran = attempt.ran or to in (AttemptState.RUNNING, AttemptState.FINISHING)
    started = attempt.start_time or (now if ran else None)
    if attempt.state is AttemptState.CANCELING or _ORDER[to] <= _ORDER[attempt.state]:
        if ran == attempt.ran:
            return attempt
        return replace(attempt, ran=ran, start_time=started)
    return replace(attempt, state=to, ran=ran, start_time=started)


def end(attempt: Attempt, result: Result, now: datetime) -> Attempt:
    """Ends a live attempt with what its agent reported."""
    # An attempt that succeeded or exited on its own has run, even if the report of RUNNING never came.
    ran = attempt.ran or result.state is AttemptState.SUCCEEDED or result.exit_code is not None
    return replace(
        attempt,
        state=result.state,
        ran=ran,
        failure_class=result.failure_class,
        reason=result.reason,
        message=result.message,
        exit_code=result.exit_code,
        start_time=attempt.start_time or (now if ran else None),
        end_time=now,
    )


def lose(attempt: Attempt, reason: str, message: str, now: datetime) -> Attempt:
    """Ends a live attempt of which nothing more is known."""
    return replace(
        attempt,
        state=AttemptState.LOST,
        failure_class=FailureClass.LOST_NODE,
        reason=reason,
        message=message,
        end_time=now,
    )
