"""Holds uploads against what their project may store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from animus_catalog.blobs.receive import Threads
from animus_catalog.domain.errors import StorageQuotaExceeded
from animus_catalog.store import storage as store
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction

KEPT_SECONDS = 5.0
"""How long a sum is gone on with. What this process lets in is added to it; replicas do not know of each other's."""
REFUSED_SECONDS = 1.0
"""How long a refusal is repeated without summing again: who is refused asks again, and a sum reads every blob's row."""


@dataclass
class _Project:
    """What is known of a project with a limit: stored, and on its way."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stored: int = 0
    under_way: int = 0
    until: float = 0.0
    refused_until: float = 0.0

    def full(self, size: int, limit: int) -> bool:
        return self.stored + self.under_way + size > limit

    def end(self, size: int, kept: int) -> None:
        """An upload of `size` bytes is over, and `kept` of them were stored."""
        with self.lock:
            self.under_way -= size
            self.stored += kept
            if not kept:
                # What came of it may be kept, and takes room: asked of the database before anything more is let in.
                self.until = 0.0


class StorageLimits:
    """Costs a project without a limit one look-up by key."""

    def __init__(self, engine: sa.Engine, clock: Clock, threads: Threads):
        self._engine = engine
        self._clock = clock
        self._threads = threads
        self._lock = threading.Lock()
        self._projects: dict[str, _Project] = {}

    @asynccontextmanager
    async def room(self, project: str, size: int) -> AsyncIterator[None]:
        """Enter it before the first byte of an upload is taken in. `size`: bytes to come, without those that are kept.

        Raises: StorageQuotaExceeded.
        """
        taking = asyncio.ensure_future(self._threads.run(self._take, project, size))
        try:
            known = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda done: _give_back(done, size))
            raise
        kept = 0
        try:
            yield
            kept = size
        finally:
            if known is not None:
                known.end(size, kept)

    def _take(self, project: str, size: int) -> _Project | None:
        with transaction(self._engine) as conn:
            limit = store.limit(conn, project)
        if limit is None:
            return None
        with self._lock:
            known = self._projects.setdefault(project, _Project())
        with known.lock:
            now = self._clock.monotonic()
            if now >= known.until or (known.full(size, limit) and now >= known.refused_until):
                # Also before it is refused: what an attempt gave up is room again.
                with transaction(self._engine) as conn:
                    known.stored, known.until = store.stored(conn, project), now + KEPT_SECONDS
                known.refused_until = now + REFUSED_SECONDS if known.full(size, limit) else 0.0
            if known.full(size, limit):
                raise StorageQuotaExceeded(project, limit, known.stored + known.under_way, size)
            known.under_way += size
        return known


def _give_back(done: asyncio.Future[_Project | None], size: int) -> None:
    if not done.cancelled() and done.exception() is None and (known := done.result()) is not None:
        known.end(size, 0)
