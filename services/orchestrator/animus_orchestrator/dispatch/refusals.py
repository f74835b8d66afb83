"""What agents said and nobody believed, as events: ten a minute of each agent and reason, then a count.

A node that lies must be seen in the log, and must not be able to fill it. Only the writer's thread uses this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from animus_kit.clock import Clock
from animus_orchestrator.store.facts import SERVICE, emit_agent

SINGLY = 10
WINDOW_SECONDS = 60.0
EVENT = "orchestrator.agent.message-refused"
Refusal = dict[str, Any]


@dataclass
class _Window:
    started: float
    seen: int = 0

    @property
    def untold(self) -> int:
        return max(0, self.seen - SINGLY)


class Refusals:
    """Kept in memory: what was only counted when a process dies is lost, what was told is not."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def tell(self, conn: Connection, refused: Mapping[str, Iterable[Refusal]]) -> None:
        """`refused`: agent id → what was refused, each with a `reason`."""
        now = self._clock.monotonic()
        self._close(conn, now)
        for agent, refusals in refused.items():
            for refusal in refusals:
                window = self._windows.setdefault((agent, refusal["reason"]), _Window(now))
                window.seen += 1
                if window.seen <= SINGLY:
                    emit_agent(conn, EVENT, agent, refusal, SERVICE)

    def _close(self, conn: Connection, now: float) -> None:
        # In the order in which they began, so that those that go on are not looked at.
        over = list(itertools.takewhile(lambda one: now - one[1].started >= WINDOW_SECONDS, self._windows.items()))
        for (agent, reason), window in over:
            del self._windows[agent, reason]
            if window.untold:
                emit_agent(conn, EVENT, agent, {"reason": reason, "count": window.untold}, SERVICE)
