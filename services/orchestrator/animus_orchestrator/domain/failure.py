"""Failure classes of attempts: what each means for the next one (docs/execution.md, "Failure classes")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """Why an attempt did not succeed; the names are those of `Attempt.FailureClass` on the wire."""

    USER_ERROR = "USER_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    LOG_LIMIT = "LOG_LIMIT"
    DISK_LIMIT = "DISK_LIMIT"
    LOST_NODE = "LOST_NODE"
    LOST_CONTAINER = "LOST_CONTAINER"
    INFRASTRUCTURE = "INFRASTRUCTURE"
    PREEMPTED = "PREEMPTED"
    POLICY = "POLICY"
    TAINTED = "TAINTED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class Rule:
    """`retry`: another attempt may follow. `ours`: not the step's own doing, so that an end before RUNNING is bounded
    apart from the pipeline's maxAttempts."""

    retry: bool
    ours: bool


RULES: dict[FailureClass, Rule] = {
    FailureClass.USER_ERROR: Rule(retry=True, ours=False),
    FailureClass.OUT_OF_MEMORY: Rule(retry=True, ours=False),
    FailureClass.TIMEOUT: Rule(retry=True, ours=False),
    # The same step writes the same bytes again: a second attempt only costs.
    FailureClass.LOG_LIMIT: Rule(retry=False, ours=False),
    FailureClass.DISK_LIMIT: Rule(retry=False, ours=False),
    FailureClass.LOST_NODE: Rule(retry=True, ours=True),
    FailureClass.LOST_CONTAINER: Rule(retry=True, ours=True),
    FailureClass.INFRASTRUCTURE: Rule(retry=True, ours=True),
    FailureClass.PREEMPTED: Rule(retry=True, ours=True),
    FailureClass.POLICY: Rule(retry=False, ours=False),
    FailureClass.TAINTED: Rule(retry=True, ours=False),
    FailureClass.CANCELED: Rule(retry=False, ours=False),
}
