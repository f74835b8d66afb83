"""What may go wrong, by kind.

ClientError               on this side, before or after a call: `reason` and what to do in the message
ApiError                  what a service or the gateway answered: `code`, `reason`, `violations`, `request_id`
├─ NotFound  AlreadyExists  InvalidArgument  FailedPrecondition  PermissionDenied  Unauthenticated
└─ Aborted  ResourceExhausted  Unavailable  DeadlineExceeded
"""

from __future__ import annotations

import grpc

from animus_kit.status import RemoteError, from_rpc_error


class ClientError(Exception):
    """Something on this side: a folder, a repository, an image that cannot be used."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message


class ApiError(RemoteError):
    """An answer that is an error. Branch on `reason`, show `message`."""


class NotFound(ApiError):
    pass


class AlreadyExists(ApiError):
    pass


class InvalidArgument(ApiError):
    pass


class FailedPrecondition(ApiError):
    pass


class PermissionDenied(ApiError):
    pass


class Unauthenticated(ApiError):
    pass


class Aborted(ApiError):
    pass


class ResourceExhausted(ApiError):
    pass


class Unavailable(ApiError):
    pass


class DeadlineExceeded(ApiError):
    pass


_KINDS: dict[str, type[ApiError]] = {
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "INVALID_ARGUMENT": InvalidArgument,
    "FAILED_PRECONDITION": FailedPrecondition,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": Unauthenticated,
    "ABORTED": Aborted,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def from_call(error: grpc.RpcError) -> ApiError:
    """The typed error of a failed call."""
    found = from_rpc_error(error)
    request_id = found.request_id
    if not request_id:
        for metadata in (error.initial_metadata(), error.trailing_metadata()):  # type: ignore[attr-defined]
            request_id = request_id or dict(metadata or ()).get("x-request-id", "")
    return _KINDS.get(found.code, ApiError)(
        found.code,
        found.reason,
        found.message,
        domain=found.domain,
        request_id=request_id,
        metadata=found.metadata,
        violations=found.violations,
        retry_after=found.retry_after,
        resource=found.resource,
    )
