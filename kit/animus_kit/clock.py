"""Time comes through the door: what needs it takes a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks, for two questions that must not be mixed up."""

    def now(self) -> datetime:
        """The wall clock, aware and in UTC. Decides validity (certificates, tokens), never order or leases."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. Decides leases, timeouts and retries."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with exactly six digits of a second, as documents carry times.

    Raises ValueError for a naive time: which zone it meant is anybody's guess.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> datetime:
    """The reverse of `rfc3339`, and as strict: only that form is read. Raises ValueError."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    if rfc3339(moment) != text:
        raise ValueError(f"not in the form YYYY-MM-DDThh:mm:ss.ffffffZ: {text!r}")
    return moment
