"""The agent's own log lines for `animus agent logs`: the newest, few, scrubbed, and lost rather than in the way.

They travel on the session beside everything else and are no part of the record: not spooled, not acknowledged. The
output of steps never gets here, because it is never logged.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import agent_pb2
from animus_kit import scrub
from animus_kit.clock import Clock

KEPT = 500
"""Lines that wait to be sent; beyond that the oldest go."""
RATE = 10.0
BURST = 200.0
"""Lines a second, and at once. A failure that repeats must not hide how it began."""
MESSAGE_LINES = 100
MAX_FIELDS = 32
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LEVEL = agent_pb2.AgentLogLine.Level


class Diagnostics(logging.Handler):
    """A handler that keeps lines of our own loggers until a session takes them. Safe for many threads."""

    def __init__(self, clock: Clock, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._clock = clock
        self._guard = threading.Lock()
        self._lines: deque[pb.LogLine] = deque()
        self._dropped = 0
        self._budget = BURST
        self._at = clock.monotonic()

    def install(self) -> None:
        logging.getLogger().addHandler(self)

    def uninstall(self) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a line that cannot be sent is no reason to fail."""
        if not record.name.startswith("animus"):
            return
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        with self._guard:
            now = self._clock.monotonic()
            self._budget = min(BURST, self._budget + (now - self._at) * RATE)
            self._at = now
            if self._budget < 1.0:
                self._dropped += 1
                return
            self._budget -= 1.0
            line.dropped_before, self._dropped = self._dropped, 0
            self._lines.append(line)
            if len(self._lines) > KEPT:
                gone = self._lines.popleft()
                self._lines[0].dropped_before += 1 + gone.dropped_before

    def take(self) -> pb.Diagnostics | None:
        """The oldest lines, no longer kept; None when there are none."""
        with self._guard:
            count = min(len(self._lines), MESSAGE_LINES)
            if not count:
                return None
            return pb.Diagnostics(lines=[self._lines.popleft() for _ in range(count)])

    def _line(self, record: logging.LogRecord) -> pb.LogLine:
        fields = dict(getattr(record, "animus", {}))
        if record.exc_info and record.exc_info[1] is not None:
            # What it was, not where: a trace tells of files and values that belong to the node.
            error = record.exc_info[1]
            fields["error"] = f"{type(error).__name__}: {error}"
        at = Timestamp()
        at.FromDatetime(datetime.fromtimestamp(record.created, UTC))
        return pb.LogLine(
            client_time=at,
            level=_level(record.levelno),
            logger=scrub.text(record.name, 128),
            message=scrub.text(record.getMessage()),
            fields={
                name: scrub.field(name, str(value))
                for name, value in list(fields.items())[:MAX_FIELDS]
                if _FIELD.fullmatch(name) and value is not None
            },
        )


def _level(number: int) -> int:
    if number >= logging.ERROR:
        return _LEVEL.LEVEL_ERROR
    return _LEVEL.LEVEL_WARNING if number >= logging.WARNING else _LEVEL.LEVEL_INFO
