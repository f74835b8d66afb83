"""What every call passes before and after its handler, as plain functions. interceptors.py adapts them twice.

In order: peer (certificate) → request id, trace, deadline → bearer token → request rules → permission → handler →
errors. A handler never refuses by itself; it raises an AppError.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, replace
from typing import Any

import grpc
import sqlalchemy.exc

from animus_kit import trace
from animus_kit.actor import Actor
from animus_kit.db.engine import is_away
from animus_kit.documents.event import opaque_actor
from animus_kit.errors import (
    Aborted,
    AppError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Unauthenticated,
    Unavailable,
)
from animus_kit.log import get_logger
from animus_kit.server import metrics
from animus_kit.server.authz import Access, AccessDenied, DenialSink, PeerRefused, Row, Rows
from animus_kit.server.context import CallContext
from animus_kit.server.token import CLOCK_TOLERANCE_SECONDS, Claims, TokenInvalid, TokenVerifier
from animus_kit.server.validate import RequestMalformed, validate
from animus_kit.status import DETAILS_KEY, RemoteError, from_rpc_error, to_status
from animus_kit.tls import Peer, peer_identity

log = get_logger(__name__)

# A unary call without a deadline gets this one: nothing waits for ever.
DEFAULT_DEADLINE_SECONDS = 30.0
# Codes with which a node is refused for what it asked (with AppError.retry_after it may only have been too early).
_FAULTS = frozenset(
    {"INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
)
_PASSING = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})


class PeerUnknown(Unauthenticated):
    """The certificate names nobody of this trust domain."""

    reason = "PEER_UNKNOWN"


class TokenMissing(Unauthenticated):
    """People show a bearer token."""

    reason = "TOKEN_MISSING"


class DependencyUnavailable(Unavailable):
    """A service that this call needs does not answer. Trying again is safe."""

    reason = "DEPENDENCY_UNAVAILABLE"


class DatabaseUnavailable(Unavailable):
    """The database does not answer. Trying again is safe."""

    reason = "DATABASE_UNAVAILABLE"


class DiskFull(Unavailable):
    """A disk of this service is full. Nothing of the call was kept; trying again is safe, once its operator has made room."""

    reason = "DISK_FULL"


class Conflict(Aborted):
    """Another transaction was faster. Trying again is safe."""

    reason = "TRANSACTION_CONFLICT"


class ValueNotStorable(InvalidArgument):
    """A text with a NUL, or a number beyond what a column holds."""

    reason = "VALUE_NOT_STORABLE"


class Malformed:
    """Stands for a request whose bytes are not its message: gRPC would otherwise answer for us, with INTERNAL."""


@dataclass(frozen=True)
class Door:
    """What the calls of one listener pass.

    actor_key: secret of this installation from which people's opaque ids in the log are made; a plain hash of a
    subject could be guessed.
    """

    service: str
    trust_domain: str
    rows: Rows
    verifier: TokenVerifier | None = None
    access: Access | None = None
    denials: DenialSink | None = None
    actor_key: bytes = b""

    def open(self, method: str, context: Any, remaining: float | None) -> tuple[Row, CallContext]:
        """Names the calling process. Blocks nobody. Raises AppError.

        context: gRPC's. remaining: seconds until the caller's deadline."""
        row = self.rows.get(method)
        if row is None:
            raise PeerRefused("no such method for anybody")
        given = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        request_id = trace.accept_request_id(given.get(trace.REQUEST_ID))
        trace.request_id.set(request_id)
        trace.trace.set(trace.start(given.get(trace.TRACEPARENT)))
        deadline = None if remaining is None else time.monotonic() + remaining
        trace.deadline.set(deadline)
        peer = peer_identity(context.auth_context(), self.trust_domain)
        if peer is None:
            raise PeerUnknown("the certificate names nobody of this trust domain")
        label = "agent" if peer.kind == "agent" else peer.label
        if label not in row.peers:
            raise PeerRefused(f"{peer.label} may not call {method}")
        return row, CallContext(
            method=method,
            request_id=request_id,
            peer=peer,
            deadline=deadline,
            stated_actor=given.get("animus-actor", "") if peer.kind == "service" else "",
            actor=self._actor(peer, ""),
        )

    def identify(self, ctx: CallContext, context: Any) -> CallContext:
        """Names the person behind the gateway, by the bearer token. May wait for the issuer's keys. Raises AppError."""
        if ctx.peer.kind != "gateway":
            return ctx
        person = self._person(dict(context.invocation_metadata()).get("authorization", ""))
        return replace(
            ctx,
            subject=person.subject,
            groups=person.groups,
            token_until=person.expires.timestamp() + CLOCK_TOLERANCE_SECONDS,
            actor=self._actor(ctx.peer, person.subject),
        )

    def admit(self, row: Row, ctx: CallContext, request: Any) -> None:
        """Checks the (first) request and the permission for it. Raises AppError."""
        self.check(request)
        if row.permission is not None:
            self.authorize(row, ctx, row.project(request))

    def authorize(self, row: Row, ctx: CallContext, project: str | None) -> None:
        """Checks the permission. May block. Raises AppError."""
        assert row.permission is not None
        if self.access is None:
            raise PeerRefused("this process decides for no one")
        try:
            self.access.check(ctx, row.permission, project)
        except AccessDenied:
            metrics.DENIED.labels(row.permission).inc()
            if self.denials is not None:
                self.denials.record(ctx, row.permission, project)
            raise

    def check_token(self, ctx: CallContext) -> None:
        """Whether the token of a call that was let in is good to this moment. Raises TokenInvalid."""
        if ctx.token_until is not None and ctx.token_until <= ctx.clock.now().timestamp():
            raise TokenInvalid("the token has expired")

    def check(self, request: Any) -> None:
        """Checks one request message by its own rules."""
        if isinstance(request, Malformed):
            raise RequestMalformed("the request is not a message of the expected type, or a text in it is not UTF-8")
        validate(request)

    def failure(self, error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
        """(code, message, trailing metadata) for whatever a handler raised."""
        known = _as_app_error(error)
        if isinstance(known, Unauthenticated):
            metrics.UNAUTHENTICATED.labels(known.reason).inc()
        domain = known.domain if isinstance(known, RemoteError) and known.domain else f"{self.service}.animus"
        status = to_status(known, domain, trace.request_id.get())
        return grpc.StatusCode[known.code], status.message, ((DETAILS_KEY, status.SerializeToString()),)

    def note(self, ctx: CallContext | None, error: BaseException) -> None:
        """Makes the refusal of a node an event. Nodes are run by whoever holds them: one that asks for what is not its own,
        or speaks out of turn, is seen in the log. May block. Never raises."""
        if self.denials is not None and is_nodes_fault(ctx, error):
            assert ctx is not None and isinstance(error, AppError)
            self.denials.record(ctx, "", None, error.reason)

    def _person(self, header: str) -> Claims:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenMissing("a bearer token is missing")
        if self.verifier is None:
            raise PeerRefused("this listener serves no people")
        return self.verifier.verify(token.strip())

    def _actor(self, peer: Peer, subject: str) -> Actor:
        if not subject:
            return Actor(peer.label)
        return Actor(opaque_actor(subject, self.actor_key), subject)


def is_nodes_fault(ctx: CallContext | None, error: BaseException) -> bool:
    """Whether an agent was refused for what it asked, rather than for the state of things or for bad luck."""
    return (
        ctx is not None
        and ctx.peer.kind == "agent"
        and isinstance(error, AppError)
        and error.code in _FAULTS
        and error.retry_after is None
    )


def _as_app_error(error: BaseException) -> AppError:
    if isinstance(error, AppError):
        return error
    if isinstance(error, grpc.RpcError):
        remote = from_rpc_error(error)
        log.warning("a call to another service failed", code=remote.code, reason=remote.reason, error=str(remote))
        if remote.code in _PASSING:
            return DependencyUnavailable("a service that this call needs does not answer", retry_after=1.0)
        return _unexpected(error)
    if isinstance(error, sqlalchemy.exc.DataError):
        # Texts in filters have no pattern of their own, and PostgreSQL holds no NUL.
        log.warning("a value that the database cannot hold", error=str(error.orig))
        return ValueNotStorable("a value of the request is nothing that a database can hold, for example a NUL")
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        # Class 40: serialization failures and deadlocks; 55P03: lock_timeout.
        if state.startswith("40") or state == "55P03":
            return Conflict("another transaction was faster", retry_after=0.1)
        if is_away(error):
            log.warning("the database does not answer", error=str(error.orig))
            return DatabaseUnavailable("the database does not answer", retry_after=1.0)
        if state == "57014":
            return DeadlineExceeded("the database took too long")
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return DatabaseUnavailable("every database connection is in use", retry_after=0.5)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        log.error("a disk is full", error=repr(error))
        return DiskFull("a disk of this service is full", retry_after=10.0)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the caller's time is over")
    return _unexpected(error)


def _unexpected(error: BaseException) -> Internal:
    """The caller learns an id, the log everything."""
    log.exception("unexpected exception", error=repr(error))
    return Internal(f"internal error; ask the operator for request {trace.request_id.get()}")
