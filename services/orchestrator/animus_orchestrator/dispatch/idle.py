"""Heartbeats of agents that hold nothing and say nothing new: answered without the database.

Thousands of idle agents would else cost a transaction for each heartbeat, and the database would only hear what it
knows. Such an agent has no lease to renew and nothing to be fenced from. That it is alive is written down with every
Status that is looked at whole, which is the first of each `WHOLE_SECONDS`; until then notices tell whether it was
cordoned, revoked or superseded, and whether there is work for it.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from animus.agent.v1 import dispatch_pb2 as pb
from animus_orchestrator.dispatch.sessions import clock_skew
from animus_orchestrator.dispatch.work import SessionState

WHOLE_SECONDS = 25.0
"""Well within the silence after which a session is taken for dead (the lease's length at least), and how long a lost
notice goes unseen."""

SKEW_SECONDS = 5.0
"""A clock that has drifted no further than this since it was looked at is not news."""


class Idle:
    """What one stream's last whole Status said, and what the session was when it was answered."""

    def __init__(self) -> None:
        self._said = b""
        self._version = -1
        self._until = 0.0

    def answer(self, session: SessionState, status: pb.Status, wall: datetime, monotonic: float) -> pb.Directive | None:
        """The Directive for a Status that says what was said before, about a session that has not changed since.
        None: it has to be looked at."""
        if monotonic >= self._until or session.version != self._version or not _empty(session):
            return None
        if (
            _said(status) != self._said
            or abs(clock_skew(status, wall) - session.agent.clock_skew_seconds) > SKEW_SECONDS
        ):
            return None
        return pb.Directive(status_sequence=status.sequence, unschedulable_reason=session.unschedulable)

    def follow(self, session: SessionState, status: pb.Status, answer: asyncio.Future, monotonic: float) -> None:
        """Remembers a whole Status once its answer is durable."""
        self._until = 0.0
        if status.held:
            return

        def remember(done: asyncio.Future) -> None:
            if not done.cancelled() and done.exception() is None:
                self._said, self._version, self._until = _said(status), session.version, monotonic + WHOLE_SECONDS

        answer.add_done_callback(remember)


def _empty(session: SessionState) -> bool:
    return not (session.closed or session.listed or session.given or session.released)


def _said(status: pb.Status) -> bytes:
    """The Status without what differs each time."""
    same = pb.Status()
    same.CopyFrom(status)
    same.ClearField("sequence")
    same.ClearField("client_time")
    return same.SerializeToString(deterministic=True)
