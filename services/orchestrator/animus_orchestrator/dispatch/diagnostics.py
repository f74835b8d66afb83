"""Agents' own log lines, beside the writer: nothing that runs waits for them, and too many are left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit import scrub
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.log import get_logger
from animus_orchestrator.store import agent_logs

log = get_logger(__name__)

RATE = 20.0
BURST = 500.0
"""Lines of one session a second, and at once: twice what an honest agent sends."""

PRUNE_EVERY = 200
AT_ONCE = 2
"""Connections that this may take from the writer's pool."""


class Diagnostics:
    """Stores what sessions send. One for all of them."""

    def __init__(self, engine: Engine, clock: Clock):
        self._engine = engine
        self._clock = clock
        self._turn = asyncio.Semaphore(AT_ONCE)

    def of(self, agent: str) -> Source:
        """What a new session of this agent sends goes there."""
        return Source(self, agent)

    async def store(self, agent: str, rows: list[dict[str, Any]], prune: bool) -> None:
        async with self._turn:
            await asyncio.to_thread(self._write, agent, rows, prune)

    def _write(self, agent: str, rows: list[dict[str, Any]], prune: bool) -> None:
        with transaction(self._engine) as conn:
            agent_logs.append(conn, rows)
            if prune:
                agent_logs.prune(conn, agent)

    def now(self) -> float:
        return self._clock.monotonic()


class Source:
    """The lines of one session."""

    def __init__(self, diagnostics: Diagnostics, agent: str):
        self._diagnostics = diagnostics
        self._agent = agent
        self._budget = BURST
        self._at = diagnostics.now()
        self._dropped = 0
        # A session that ends before so many came leaves the pruning to the next one's first message.
        self._since_prune = PRUNE_EVERY

    async def take(self, told: pb.Diagnostics) -> None:
        """Keeps what there is room for. A database that is away loses lines, not the session."""
        rows = [row for line in told.lines if (row := self._row(line)) is not None]
        if not rows:
            return
        self._since_prune += len(rows)
        prune = self._since_prune >= PRUNE_EVERY
        try:
            await self._diagnostics.store(self._agent, rows, prune)
        except Exception:
            log.exception("log lines of an agent were lost", agent=self._agent, lines=len(rows))
            self._dropped += len(rows)
            return
        if prune:
            self._since_prune = 0

    def _row(self, line: pb.LogLine) -> dict[str, Any] | None:
        now = self._diagnostics.now()
        self._budget = min(BURST, self._budget + (now - self._at) * RATE)
        self._at = now
        if self._budget < 1.0:
            self._dropped += 1
            return None
        self._budget -= 1.0
        dropped, self._dropped = self._dropped, 0
        return {
            "agent": self._agent,
            "client_time": _time(line),
            "level": line.level,
            # The node has scrubbed it already, if it is honest.
            "logger": scrub.text(line.logger, 128),
            "message": scrub.text(line.message),
            "fields": _fields(line.fields),
            "dropped_before": min(line.dropped_before, 1 << 40) + dropped,
        }


def _fields(told: Mapping[str, str]) -> str:
    found = {name: scrub.field(name, value) for name, value in sorted(told.items())}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")) if found else ""


def _time(line: pb.LogLine) -> datetime | None:
    if not line.HasField("client_time"):
        return None
    try:
        return line.client_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
