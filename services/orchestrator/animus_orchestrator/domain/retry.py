"""When a step gets another attempt, and when at the earliest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from animus_orchestrator.domain.failure import RULES, FailureClass

MAX_EARLY_LOSSES = 10
"""Attempts that ended before RUNNING for reasons that are ours; they do not use up the pipeline's maxAttempts."""

EARLY_LOSS_DELAY = 1.0
EARLY_LOSS_DELAY_MAX = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A step's `retryPolicy`. Seconds."""

    max_attempts: int = 1
    exponential: bool = False
    initial_seconds: float = 0.0
    max_seconds: float = 0.0
    multiplier: float = 1.0

    def backoff(self, ran: int) -> float:
        """Seconds to wait after the `ran`-th attempt that ran (from 1)."""
        if ran < 1:
            return 0.0
        if not self.exponential:
            return min(self.initial_seconds, self.max_seconds)
        # The exponent is bounded so that a large maxAttempts cannot overflow a float.
        return min(self.max_seconds, self.initial_seconds * self.multiplier ** min(ran - 1, 64))


@dataclass(frozen=True, slots=True)
class Again:
    """The step may be leased again, not before this time."""

    not_before: datetime


@dataclass(frozen=True, slots=True)
class Over:
    """No further attempt, and why."""

    reason: str


def decide(
    policy: RetryPolicy,
    failure: FailureClass,
    *,
    ran: bool,
    counted: int,
    early_losses: int,
    now: datetime,
    lease_until: datetime | None,
) -> Again | Over:
    """Decides after an attempt ended without success.

    `counted`: attempts that count against maxAttempts; it and `early_losses` include this attempt. `lease_until` is
    given when the attempt's processes are not known to be dead: the next one waits for it.
    """
    rule = RULES[failure]
    if not rule.retry:
        return Over("NOT_RETRIED")
    if not ran and rule.ours:
        if early_losses > MAX_EARLY_LOSSES:
            return Over("TOO_MANY_LOSSES")
        delay = min(EARLY_LOSS_DELAY_MAX, EARLY_LOSS_DELAY * 2.0 ** min(max(early_losses - 1, 0), 16))
    else:
        if max(counted, 1) >= policy.max_attempts:
            return Over("ATTEMPTS_EXHAUSTED")
        delay = policy.backoff(max(counted, 1))
    at = now + timedelta(seconds=delay)
    return Again(at if lease_until is None else max(at, lease_until))
