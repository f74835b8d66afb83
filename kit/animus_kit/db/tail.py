"""Tails: consumers that read the log in index order.

Effect and cursor are stored in one transaction, so that a crash between any two lines neither loses nor doubles an
effect. The cursor row is locked and compared before each batch: several replicas may tail under one name, and each
event still has its effect once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import grpc
import sqlalchemy as sa

from animus.audit.v1 import ingest_pb2
from animus_kit.db.engine import transaction
from animus_kit.documents import event as event_document
from animus_kit.errors import Unavailable
from animus_kit.log import get_logger
from animus_kit.retry import Backoff
from animus_kit.server import metrics
from animus_kit.status import from_rpc_error

log = get_logger(__name__)

GRANTS = {"tail_cursors": "SELECT, INSERT, UPDATE"}


@dataclass(frozen=True)
class Event:
    """One event of the log. `body` is its payload, empty when it was erased."""

    index: int
    envelope: bytes
    payload: bytes
    salt: bytes

    @cached_property
    def head(self) -> event_document.Envelope:
        """The envelope, read. Raises DocumentError."""
        return event_document.Envelope.from_bytes(self.envelope)

    @cached_property
    def body(self) -> dict[str, Any]:
        """The payload, read and held against the envelope. Raises DocumentError, or ValueError where it does not
        belong to this envelope."""
        if not self.payload:
            return {}
        if event_document.payload_digest(self.salt, self.payload) != self.head.payload_digest:
            raise ValueError(f"event {self.index}: the payload is not the one its envelope names")
        return event_document.read_payload(self.payload)

    @property
    def type(self) -> str:
        return self.head.event_type

    @property
    def project(self) -> str:
        """`projects/{project}`, or empty."""
        return self.head.project or ""

    @property
    def resource(self) -> str:
        return self.head.resource


@dataclass(frozen=True)
class Batch:
    """Events, and the index below which everything was looked at."""

    events: Sequence[Event]
    next_index: int


class Source(Protocol):
    """Where events come from."""

    def read(self, from_index: int) -> Iterator[Batch]:
        """Batches in index order, for ever. Raises AppError or grpc.RpcError when the stream breaks."""

    def cancel(self) -> None:
        """Ends the stream that another thread is reading."""


class AuditSource:
    """Reads `EventTailService.TailEvents`.

    types: exact event types, or prefixes that end in "."; all when empty.
    """

    def __init__(self, stub: Any, types: Sequence[str] = ()):
        self._stub = stub
        self._types = tuple(types)
        self._call: Any = None

    def read(self, from_index: int) -> Iterator[Batch]:
        self._call = self._stub.TailEvents(ingest_pb2.TailEventsRequest(from_index=from_index, types=self._types))
        for answer in self._call:
            events = [Event(one.index, one.envelope, one.payload, one.salt) for one in answer.events]
            yield Batch(events, answer.next_index)

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()


Apply = Callable[[sa.Connection, Event], None]


def tables(metadata: sa.MetaData) -> sa.Table:
    """The table `tail_cursors`, to be created by the first migration of a service that tails."""
    return sa.Table(
        "tail_cursors",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("next_index", sa.BigInteger, nullable=False, server_default="0"),
    )


class Tail:
    """Applies events one after the other, from `start` to `stop`, in a thread of its own and outside of handlers.

    name: of the cursor; another name reads the log again from the start. source: a Source, or a stub of
    EventTailService. apply: `(conn, event)`, in the cursor's transaction. It must be a function of the event and the
    tables alone; what it raises stops the tail at that event, to be tried again with growing waits, since a projection
    with a hole is worse than one that is late.
    """

    def __init__(self, name: str, engine: sa.Engine, source: Source | Any, apply: Apply, types: Sequence[str] = ()):
        self._name = name
        self._engine = engine
        self._source: Source = source if hasattr(source, "read") else AuditSource(source, types)
        self._apply = apply
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self._next_index = 0
        self._thread = threading.Thread(target=self._run, name=f"tail-{name}", daemon=True)

    @property
    def next_index(self) -> int:
        """Everything below it is applied. `next_index - 1` is the applied index."""
        return self._next_index

    def wait_for(self, index: int, timeout: float) -> bool:
        """Waits until the event at `index` is applied. False when `timeout` seconds pass first."""
        with self._moved:
            return self._moved.wait_for(lambda: self._next_index > index or self._stop.is_set(), timeout) and (
                self._next_index > index
            )

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Ends between two batches."""
        self._stop.set()
        self._source.cancel()
        with self._moved:
            self._moved.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        backoff = Backoff(0.1, 10.0)
        while not self._stop.is_set():
            try:
                with transaction(self._engine) as conn:
                    at = self._cursor(conn)
                self._advance(at)
                for batch in self._source.read(at):
                    if self._stop.is_set():
                        return
                    at = self._take_or_split(at, batch)
                    backoff.reset()
                raise ConnectionError("the stream ended")
            except grpc.RpcError as e:
                if self._stop.is_set():
                    return
                self._failed("the log is out of reach", from_rpc_error(e).reason)
            except _Moved:
                continue
            except (ConnectionError, Unavailable) as e:
                if self._stop.is_set():
                    return
                self._failed("the log is out of reach", str(e))
            except Exception as e:
                log.exception("tail stands still", tail=self._name, next_index=self._next_index)
                self._failed("tail failed", type(e).__name__)
            self._source.cancel()
            self._stop.wait(backoff.next())

    def _take_or_split(self, at: int, batch: Batch) -> int:
        """One bad event must not hold back the good ones before it: after a failure they go one by one."""
        try:
            return self._take(at, batch)
        except _Moved:
            raise
        except Exception:
            if len(batch.events) < 2:
                raise
        for one in batch.events:
            at = self._take(at, Batch([one], one.index + 1))
        return self._take(at, Batch([], batch.next_index))

    def _take(self, at: int, batch: Batch) -> int:
        if batch.next_index <= at and not batch.events:
            return at
        with transaction(self._engine) as conn:
            if self._cursor(conn) != at:
                raise _Moved  # a replica was faster; read on from where it is
            for one in batch.events:
                if one.index < at:
                    raise ValueError(f"the log went back: index {one.index} after {at}")
                self._apply(conn, one)
                at = one.index + 1
            at = max(at, batch.next_index)
            conn.execute(sa.text("UPDATE tail_cursors SET next_index = :i WHERE name = :n"), {"i": at, "n": self._name})
        self._advance(at)
        return at

    def _cursor(self, conn: sa.Connection) -> int:
        """Locks and reads."""
        query = sa.text("SELECT next_index FROM tail_cursors WHERE name = :n FOR UPDATE")
        found = conn.execute(query, {"n": self._name}).scalar()
        if found is not None:
            return found
        conn.execute(sa.text("INSERT INTO tail_cursors (name) VALUES (:n) ON CONFLICT DO NOTHING"), {"n": self._name})
        return conn.execute(query, {"n": self._name}).scalar_one()

    def _advance(self, to: int) -> None:
        with self._moved:
            self._next_index = max(self._next_index, to)
            self._moved.notify_all()
        metrics.tail_index(self._name, to)

    def _failed(self, what: str, reason: str) -> None:
        metrics.tail_failed(self._name)
        log.warning(what, tail=self._name, reason=reason)


class _Moved(Exception):
    """The cursor is not where this replica left it."""
