"""`AppError` ⇄ `google.rpc.Status`, the form in which errors travel.

Every status carries exactly one ErrorInfo{reason, domain, metadata}; BadRequest, PreconditionFailure, ResourceInfo,
RetryInfo and RequestInfo where they help (google/rpc/error_details.proto, AIP-193).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from animus_kit.errors import AppError, FieldViolation

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer in which gRPC carries a Status, in every language."""

# A status travels in HTTP/2 trailers, in which gRPC accepts 8 KiB of everything together (grpc.max_metadata_size), and
# base64 makes a third more of it. Text is cut before that; the reason never is.
_MAX_MESSAGE = 512
_MAX_TEXT = 256
_MAX_DETAILS = 4096


class RemoteError(AppError):
    """What another process answered. `code` and `reason` are those of the answer; `domain` says whose they are."""

    def __init__(self, code: str, reason: str, message: str, *, domain: str = "", request_id: str = "", **kw: Any):
        super().__init__(message, **kw)
        self.code = code  # type: ignore[misc]
        self.reason = reason
        self.domain = domain
        self.request_id = request_id


def to_status(err: AppError, domain: str, request_id: str = "") -> status_pb2.Status:
    """domain: for example `catalog.animus`."""
    status = status_pb2.Status(code=grpc.StatusCode[err.code].value[0], message=err.message[:_MAX_MESSAGE])
    info = error_details_pb2.ErrorInfo(reason=err.reason, domain=domain)
    for key, value in err.metadata.items():
        if info.ByteSize() < _MAX_DETAILS // 2:
            info.metadata[key] = value[:_MAX_TEXT]
    _add(status, info)
    shown = _fitting(err.violations, _MAX_DETAILS // 2)
    if shown and err.code == "FAILED_PRECONDITION":
        _add(
            status,
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(
                        type=v.reason, subject=v.field[:_MAX_TEXT], description=v.description[:_MAX_TEXT]
                    )
                    for v in shown
                ]
            ),
        )
    elif shown:
        _add(
            status,
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field[:_MAX_TEXT], reason=v.reason, description=v.description[:_MAX_TEXT]
                    )
                    for v in shown
                ]
            ),
        )
    if err.resource is not None:
        _add(status, error_details_pb2.ResourceInfo(resource_type=err.resource[0], resource_name=err.resource[1]))
    if err.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(err.retry_after * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        _add(status, error_details_pb2.RequestInfo(request_id=request_id))
    return status


def from_status(status: status_pb2.Status) -> RemoteError:
    """The reverse. A status without an ErrorInfo has its code's name as reason."""
    code = _code_name(status.code)
    reason, domain, request_id = code, "", ""
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    resource: tuple[str, str] | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = _unpack(detail, error_details_pb2.ErrorInfo())
            reason, domain, metadata = info.reason or code, info.domain, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            for v in _unpack(detail, error_details_pb2.BadRequest()).field_violations:
                violations.append(FieldViolation(v.field, v.reason, v.description))
        elif detail.Is(error_details_pb2.PreconditionFailure.DESCRIPTOR):
            for p in _unpack(detail, error_details_pb2.PreconditionFailure()).violations:
                violations.append(FieldViolation(p.subject, p.type, p.description))
        elif detail.Is(error_details_pb2.ResourceInfo.DESCRIPTOR):
            found = _unpack(detail, error_details_pb2.ResourceInfo())
            resource = (found.resource_type, found.resource_name)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_after = _unpack(detail, error_details_pb2.RetryInfo()).retry_delay.ToNanoseconds() / 1e9
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request_id = _unpack(detail, error_details_pb2.RequestInfo()).request_id
    return RemoteError(
        code,
        reason,
        status.message,
        domain=domain,
        request_id=request_id,
        metadata=metadata,
        violations=violations,
        retry_after=retry_after,
        resource=resource,
    )


def from_rpc_error(error: grpc.RpcError) -> RemoteError:
    """Reads the Status out of a failed call, sync or aio. Without one, code and text of the call itself are all."""
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == DETAILS_KEY:
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except Exception:  # a proxy may have cut it; the code is still right
                break
            return from_status(status)
    code = error.code().name  # type: ignore[attr-defined]
    return RemoteError(code, code, error.details() or "")  # type: ignore[attr-defined]


def _fitting(violations: Sequence[FieldViolation], room: int) -> list[FieldViolation]:
    """The first ones, as many as travel: a document with a thousand faults shows its first dozen."""
    shown = []
    for one in violations:
        room -= sum(min(len(text.encode()), 4 * _MAX_TEXT) for text in (one.field, one.reason, one.description)) + 16
        if room < 0 and shown:
            break
        shown.append(one)
    return shown


def _add(status: status_pb2.Status, detail: Any) -> None:
    status.details.add().Pack(detail)


def _unpack(detail: Any, message: Any) -> Any:
    detail.Unpack(message)
    return message


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _code_name(number: int) -> str:
    return _CODES.get(number, "UNKNOWN")
