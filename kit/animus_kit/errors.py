"""What may go wrong, as nouns with a reason.

    AppError
    ├─ InvalidArgument      the request can never be right            INVALID_ARGUMENT
    ├─ OutOfRange           right in form, beyond what there is       OUT_OF_RANGE
    ├─ Unauthenticated      we do not know who asks                   UNAUTHENTICATED
    ├─ PermissionDenied     we know, and it may not                   PERMISSION_DENIED
    ├─ NotFound             there is none, or none that it may see    NOT_FOUND
    ├─ AlreadyExists        another one has the name                  ALREADY_EXISTS
    ├─ FailedPrecondition   not in this state; do something first     FAILED_PRECONDITION
    ├─ Aborted              somebody was faster; read and try again   ABORTED
    ├─ ResourceExhausted    too much at once; later                   RESOURCE_EXHAUSTED
    ├─ Unavailable          not now; try again                        UNAVAILABLE
    ├─ DeadlineExceeded     the caller's time is over                 DEADLINE_EXCEEDED
    ├─ Unimplemented        not in this build                         UNIMPLEMENTED
    ├─ Internal             our fault; an id and no detail            INTERNAL
    └─ RemoteError          what another process answered (animus_kit.status)

A service subclasses one of these with a `reason` of its own. One interceptor turns it into a `google.rpc.Status` with
exactly one `ErrorInfo`; clients branch on the reason, people read the message. Messages never carry secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """One field that is wrong. `reason` is UPPER_SNAKE, or the id of the rule it breaks."""

    field: str
    reason: str
    description: str


class AppError(Exception):
    """The base of all that is refused on purpose.

    metadata: facts that a client may act on, as strings.
    violations: fields that are wrong (BadRequest), or for FailedPrecondition what does not hold (PreconditionFailure).
    retry_after: seconds after which another try makes sense (RetryInfo).
    resource: (type, name) of what it is about, for example ("animus.dev/Run", "projects/p/runs/r").
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: str = "UNKNOWN"

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        resource: tuple[str, str] | None = None,
    ):
        super().__init__(message or self.reason)
        self.message = message or self.reason
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.resource = resource


class InvalidArgument(AppError):
    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class OutOfRange(AppError):
    code = "OUT_OF_RANGE"
    reason = "OUT_OF_RANGE"


class Unauthenticated(AppError):
    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDenied(AppError):
    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class NotFound(AppError):
    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExists(AppError):
    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class FailedPrecondition(AppError):
    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class Aborted(AppError):
    code = "ABORTED"
    reason = "ABORTED"


class ResourceExhausted(AppError):
    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class Unavailable(AppError):
    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class DeadlineExceeded(AppError):
    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Unimplemented(AppError):
    code = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class Internal(AppError):
    code = "INTERNAL"
    reason = "INTERNAL"
