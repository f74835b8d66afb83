"""Channels to other processes of the control plane.

A client checks the DNS SAN ``<service>.<trust domain>`` whatever address it dials. Deadline, request id and trace
context of the call being served travel on with every outgoing call.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from animus_kit import trace
from animus_kit.errors import ResourceExhausted
from animus_kit.redial import FollowingChannel
from animus_kit.tls import TlsFiles, channel_credentials

# Left for this process to answer its own caller after the callee ran out of time.
DEADLINE_MARGIN_SECONDS = 0.05
# Without a caller's deadline no call waits longer.
DEFAULT_DEADLINE_SECONDS = 30.0

OPTIONS: tuple[tuple[str, Any], ...] = (
    # Servers refuse pings more often than every 10 s with GOAWAY; see animus_kit.server.serve.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long one try may take, TLS included, which on a busy machine is more than a wait between two.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class TooManyOutgoing(ResourceExhausted):
    """Half of the workers wait for other processes. The other half must be able to answer, or processes that wait for
    one another would stop together. Trying again is safe."""

    reason = "TOO_MANY_OUTGOING_CALLS"


actor: contextvars.ContextVar[str] = contextvars.ContextVar("animus_actor", default="")
"""Who asked, as a statement for the callee's audit event and never for a decision."""


def dial(
    target: str,
    service_name: str,
    tls: TlsFiles,
    trust_domain: str,
    *,
    aio: bool = False,
    options: Sequence[tuple[str, Any]] = (),
) -> Any:
    """Opens a channel (grpc.Channel, or grpc.aio.Channel) to host:port that must present service_name's certificate.

    A grpc.Channel follows the files of `tls`; a grpc.aio.Channel keeps the certificate that it began with.
    """
    name = ("grpc.ssl_target_name_override", f"{service_name}.{trust_domain}")
    every = [*OPTIONS, name, *options]
    if aio:
        # Streams carry their own deadlines; only the metadata travels on.
        interceptors = [_AioUnaryStream(), _AioUnaryUnary(), _AioStreamUnary(), _AioStreamStream()]
        return grpc.aio.secure_channel(target, channel_credentials(tls), options=every, interceptors=interceptors)
    # Channels of one process share connections, and with them the certificate of whoever connected first.
    every.append(("grpc.use_local_subchannel_pool", 1))

    def connect() -> grpc.Channel:
        made = grpc.secure_channel(target, channel_credentials(tls), options=every)
        return grpc.intercept_channel(made, _Propagate())

    return FollowingChannel(tls, connect)


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, metadata: Any, timeout: float | None) -> None:
        self.method = details.method
        self.timeout = timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = getattr(details, "compression", None)


def _metadata(given: Any) -> list[tuple[str, Any]]:
    metadata = [(key, value) for key, value in (given or ())]
    present = {key for key, _ in metadata}
    span = trace.trace.get()
    for key, value in (
        (trace.REQUEST_ID, trace.request_id.get()),
        (trace.TRACEPARENT, span.header() if span else ""),
        ("animus-actor", actor.get()),
    ):
        if value and key not in present:
            metadata.append((key, value))
    return metadata


def _timeout(given: float | None) -> float:
    if trace.in_transaction.get():
        raise RuntimeError("an RPC inside a database transaction: locks would wait for another process")
    limit = given if given is not None else DEFAULT_DEADLINE_SECONDS
    deadline = trace.deadline.get()
    if deadline is not None:
        limit = min(limit, deadline - time.monotonic() - DEADLINE_MARGIN_SECONDS)
    return max(limit, 0.001)


class _Propagate(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        called = _Details(details, _metadata(details.metadata), _timeout(details.timeout))
        places = trace.outgoing.get()
        if places is None:
            return continuation(called, request)
        if not places.acquire(blocking=False):
            raise TooManyOutgoing("too many calls here wait for other services", retry_after=0.5)
        try:
            outcome = continuation(called, request)
        except BaseException:
            places.release()
            raise
        # A blocking call is over by now, one made with .future() when it says so.
        outcome.add_done_callback(lambda _: places.release())
        return outcome

    def _stream(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = _metadata(details.metadata)
        return continuation(_Details(details, metadata, details.timeout), request)

    intercept_unary_stream = _stream
    intercept_stream_unary = _stream
    intercept_stream_stream = _stream


def _aio_details(details: Any, *, unary: bool) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=_timeout(details.timeout) if unary else details.timeout,
        metadata=grpc.aio.Metadata(*_metadata(details.metadata)),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


class _AioUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_aio_details(details, unary=True), request)


class _AioUnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_aio_details(details, unary=False), request)


class _AioStreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(_aio_details(details, unary=False), requests)


class _AioStreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(_aio_details(details, unary=False), requests)
