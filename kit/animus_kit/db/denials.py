"""Denials are events: `<svc>.access.denied`, ten a minute each, then a count.

Somebody who probes, or a client in a loop, must be seen in the log and must not be able to fill it. So the first ten of
a minute for one subject and method, and for nodes of each reason, are told singly; how many followed is told when the
minute is over, with the last of them. Projects have no minutes of their own: who makes up names would have one for each.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import sqlalchemy as sa

from animus_kit.clock import Clock, SystemClock
from animus_kit.db import outbox
from animus_kit.db.engine import transaction
from animus_kit.log import get_logger
from animus_kit.server.context import CallContext

log = get_logger(__name__)

SINGLY = 10
WINDOW_SECONDS = 60.0
_FLUSH_EVERY = 5.0
_MAX_KEYS = 10_000


@dataclass
class _Window:
    started: float
    seen: int
    last: outbox.Event


class Denials:
    """The DenialSink of a service with an outbox. Also a task: `start` makes counts appear by themselves."""

    def __init__(self, engine: sa.Engine, service: str, clock: Clock | None = None):
        self._engine = engine
        self._event_type = f"{service}.access.denied"
        self._clock = clock or SystemClock()
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="denials", daemon=True)

    def record(self, ctx: CallContext, permission: str, project: str | None, reason: str = "") -> None:
        """Tells of one denial, in a transaction of its own. Never raises: the caller is refused in any case."""
        now = self._clock.monotonic()
        one = outbox.Event(
            self._event_type,
            project or "",
            project or "platform",
            ctx.actor,
            {"method": ctx.method, "permission": permission, "peer": ctx.peer.label}
            | ({"reason": reason} if reason else {}),
            ctx.request_id,
        )
        with self._lock:
            due = self._due(now)
            key = (ctx.caller, ctx.method, reason)
            window = self._windows.get(key)
            if window is None:
                if len(self._windows) >= _MAX_KEYS:
                    due += self._due(float("inf"))
                window = self._windows[key] = _Window(now, 0, one)
            window.seen += 1
            window.last = one
            if window.seen <= SINGLY:
                due.append(one)
        self._write(due)

    def flush(self) -> None:
        """Tells the counts of minutes that are over."""
        with self._lock:
            due = self._due(self._clock.monotonic())
        self._write(due)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tells what is still counted."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        with self._lock:
            due = self._due(float("inf"))
        self._write(due)

    def _run(self) -> None:
        while not self._stop.wait(_FLUSH_EVERY):
            self.flush()

    def _due(self, now: float) -> list[outbox.Event]:
        """Takes out the windows that are over; returns events for those that have more to tell. Under the lock."""
        over = [key for key, window in self._windows.items() if now - window.started >= WINDOW_SECONDS]
        told = []
        for key in over:
            window = self._windows.pop(key)
            if window.seen > SINGLY:
                last = window.last
                payload = {**last.payload, "count": window.seen - SINGLY}
                told.append(outbox.Event(last.event_type, last.project, last.resource, last.actor, payload))
        return told

    def _write(self, events: list[outbox.Event]) -> None:
        if not events:
            return
        try:
            with transaction(self._engine) as conn:
                outbox.emit_many(conn, events)
        except Exception:
            log.exception("denials could not be recorded", count=len(events))
