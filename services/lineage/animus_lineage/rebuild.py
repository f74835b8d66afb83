"""Drops the view and fills it again from the log.

    python -m animus_lineage rebuild

May run beside a serving process, which answers from what is applied so far and goes on where this ends.
"""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import Engine

from animus_kit.db.tail import AuditSource, Batch, Tail
from animus_kit.errors import DeadlineExceeded

from .domain.facts import EVENT_TYPES
from .store.snapshot import TAIL
from .tail.facts import apply


class _UntilTheEnd(AuditSource):
    """Tells when the log has been read to its end: audit then sends an answer that neither tells nor moves."""

    def __init__(self, stub: Any):
        super().__init__(stub, EVENT_TYPES)
        self.ended = threading.Event()

    def read(self, from_index: int) -> Iterator[Batch]:
        at = from_index
        for batch in super().read(from_index):
            end = not batch.events and batch.next_index == at
            at = batch.next_index
            yield batch
            if end:
                self.ended.set()


def drop(owner_dsn: str) -> None:
    """Empties the view, as the owner: the runtime role may not delete."""
    with psycopg.connect(owner_dsn) as conn:
        conn.execute("SET LOCAL ROLE lineage_owner")
        conn.execute("SET LOCAL search_path = lineage")
        # The cursor's lock first: a tail that is applying a batch ends it before, or finds the cursor moved.
        conn.execute("SELECT next_index FROM tail_cursors WHERE name = %s FOR UPDATE", (TAIL,))
        conn.execute("TRUNCATE edges, nodes, skipped_events RESTART IDENTITY")
        conn.execute("UPDATE tail_cursors SET next_index = 0 WHERE name = %s", (TAIL,))


def fill(engine: Engine, audit_stub: Any, timeout: float = 3600.0) -> int:
    """Applies the log from the cursor to its end; returns the index reached. Raises DeadlineExceeded."""
    source = _UntilTheEnd(audit_stub)
    tail = Tail(TAIL, engine, source, apply)
    tail.start()
    try:
        if not source.ended.wait(timeout):
            raise DeadlineExceeded(f"the log was applied up to index {tail.next_index} only")
    finally:
        tail.stop()
    return tail.next_index
