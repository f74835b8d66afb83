"""What a handler knows of its call: `current()`."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from animus_kit.actor import Actor
from animus_kit.clock import Clock, SystemClock
from animus_kit.tls import Peer


@dataclass(frozen=True)
class CallContext:
    """One call. `subject` and `groups` are a person's, from a token that we checked; empty for processes."""

    request_id: str
    peer: Peer
    method: str
    """Full name, for example /animus.catalog.v1.ProjectService/GetProject."""
    subject: str = ""
    groups: tuple[str, ...] = ()
    deadline: float | None = None
    """On the clock of time.monotonic(). None: the caller set none."""
    clock: Clock = field(default_factory=SystemClock)
    actor: Actor = Actor("unknown")
    """For events: the opaque name of a person with the clear one beside it, or the process."""
    token_until: float | None = None
    """Seconds since 1970: until then the person's token is accepted. A stream ends with it."""
    stated_actor: str = ""
    """Who asked the service that calls, as that service says: for events, never for a decision."""

    @property
    def caller(self) -> str:
        """Who asks, as one word: the person where there is one, otherwise the process."""
        return f"subject:{self.subject}" if self.subject else self.peer.spiffe_id

    def remaining(self) -> float | None:
        """Seconds that the caller still waits."""
        return None if self.deadline is None else self.deadline - time.monotonic()


call: ContextVar[CallContext | None] = ContextVar("animus_call", default=None)
"""Set by the interceptors."""


def current() -> CallContext:
    """The call that this code answers. Raises LookupError outside of one."""
    ctx = call.get()
    if ctx is None:
        raise LookupError("no call is being answered here")
    return ctx


def maybe_current() -> CallContext | None:
    return call.get()
