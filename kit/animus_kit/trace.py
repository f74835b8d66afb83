"""What one call carries along: request id, trace, deadline.

W3C Trace Context (https://www.w3.org/TR/trace-context/): `traceparent: 00-<32 hex>-<16 hex>-<2 hex>`. We pass it on with
a span of our own and put the ids into every log line; exporting spans is left to whoever reads those.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

TRACEPARENT = "traceparent"
REQUEST_ID = "x-request-id"
"""Envoy's name for it, kept, so that its access log and ours can be joined."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,63}")


@dataclass(frozen=True)
class Trace:
    """trace_id is shared by all spans of one request; span_id names our part of it."""

    trace_id: str
    span_id: str
    flags: str = "00"

    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


request_id: ContextVar[str] = ContextVar("animus_request_id", default="")
trace: ContextVar[Trace | None] = ContextVar("animus_trace", default=None)
deadline: ContextVar[float | None] = ContextVar("animus_deadline", default=None)
"""On the clock of time.monotonic()."""


def start(traceparent: str | None) -> Trace:
    """A span below the caller's, or a trace of our own where the header is absent or not well formed (§3.2.2)."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None or match[1] == "ff" or set(match[2]) == {"0"} or set(match[3]) == {"0"}:
        return Trace(secrets.token_hex(16), secrets.token_hex(8))
    return Trace(match[2], secrets.token_hex(8), match[4])


def accept_request_id(text: str | None) -> str:
    """The caller's request id where it is harmless in a log line and a header; otherwise a new one."""
    if text and _REQUEST_ID.fullmatch(text):
        return text
    return secrets.token_hex(16)


@contextlib.contextmanager
def scope(new_request_id: str, new_trace: Trace, new_deadline: float | None = None) -> Iterator[None]:
    """Sets all three for a block of code, and for what that code starts in the same context."""
    tokens = (request_id.set(new_request_id), trace.set(new_trace), deadline.set(new_deadline))
    try:
        yield
    finally:
        request_id.reset(tokens[0])
        trace.reset(tokens[1])
        deadline.reset(tokens[2])


in_transaction: ContextVar[bool] = ContextVar("animus_in_transaction", default=False)
"""Set by animus_kit.db.engine, asked by animus_kit.channel: no transaction is ever open across an RPC."""

outgoing: ContextVar[threading.BoundedSemaphore | None] = ContextVar("animus_outgoing", default=None)
"""How many handlers of this listener may wait for other processes; None outside of handlers."""
