"""Why an attempt did not succeed. Order of belief: our own kill intent, the kernel's counter, the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """The names are those of `animus.orchestrator.v1.Attempt.FailureClass`."""

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
class Failure:
    """`reason` is stable and upper-case."""

    failure_class: FailureClass
    reason: str
    message: str = ""


class AttemptFailed(Exception):
    """Ends the list of steps; the report follows."""

    def __init__(self, failure_class: FailureClass, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.failure = Failure(failure_class, reason, message)


class Abandoned(Exception):
    """The attempt is not ours any more: kill, clean up, report nothing."""


CANCELED = Failure(FailureClass.CANCELED, "CANCELED", "canceled by request")
PREEMPTED = Failure(FailureClass.PREEMPTED, "DRAIN_DEADLINE_PASSED", "the node is being emptied and its time is over")
REBOOTED = Failure(FailureClass.LOST_CONTAINER, "NODE_REBOOTED", "the node was restarted during the attempt")
LEASE_EXPIRED = Failure(FailureClass.LOST_NODE, "LEASE_EXPIRED", "the lease could not be renewed in time")
STALE = Failure(FailureClass.LOST_NODE, "STALE_ATTEMPT", "the attempt is no longer current")
