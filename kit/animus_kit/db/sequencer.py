"""One sequencer per source: numbers what was committed, and brings it to the log.

    outbox rows without a number ──▶ numbered densely, with their envelope, in a transaction of its own ──▶ audit

Any replica may run a `Sequencer`; one at a time holds the source. Two things guard it:

- A session advisory lock decides who works. It was chosen over a lease row because PostgreSQL frees it the moment the
  holder's connection ends: a killed process is replaced within `STANDBY_SECONDS`, with no clock and no lease to wait
  out. (It needs a connection of its own, not one of a transaction pooler.)
- The source row's `epoch` decides who may write. Numbering locks the row and compares; a holder that lost its session
  without noticing finds another epoch and stops. What such a one still delivers is a true repeat, which audit accepts.

Numbers are given to committed rows in the order of their ids. Ids are drawn before the commit, so that reading "id >
last" would lose rows that commit late (548 of 7,182 in a test); here a late row is simply still without a number.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import psycopg
from psycopg.rows import namedtuple_row

from animus.audit.v1 import ingest_pb2
from animus_kit.documents import event
from animus_kit.errors import AppError
from animus_kit.log import get_logger
from animus_kit.retry import Backoff
from animus_kit.server import metrics
from animus_kit.status import from_rpc_error

log = get_logger(__name__)

MAX_EVENTS = 500
MAX_BYTES = 2 << 20
"""Of one delivery; gRPC refuses messages of 4 MiB."""
DELIVERY_TIMEOUT = 20.0
STANDBY_SECONDS = 0.25
# After work, look again before going to sleep: a busy source then needs no notices, which would serialise the commits
# of its writers. One with pauses longer than this is better off with a notice: each look is a statement for nothing.
AWAKE_POLL, AWAKE_FOR = 0.003, 0.008
# Notices are hints. The first steps catch writers that saw us awake and committed when we slept; the last is what a
# lost notice costs.
SLEEP_POLLS = (0.005, 0.02, 0.1, 0.5)
KEEP_DELIVERED = "24 hours"
# One statement for source and rows. Durable whatever the session says, since these numbers are about to be told.
_NUMBER = """
WITH source AS (
    UPDATE outbox_source SET last_seq = %(last_seq)s, sleeping = false
    WHERE epoch = %(epoch)s AND last_seq = %(before)s RETURNING 1
), filled AS (
    UPDATE outbox o SET generation = %(generation)s, seq = v.seq, envelope = v.envelope, salt = v.salt
    FROM unnest(%(ids)s::bigint[], %(seqs)s::bigint[], %(envelopes)s::bytea[], %(salts)s::bytea[])
         AS v(id, seq, envelope, salt)
    WHERE o.id = v.id AND o.seq IS NULL RETURNING 1
)
SELECT (SELECT count(*) FROM source) AS sources, (SELECT count(*) FROM filled) AS filled,
       set_config('synchronous_commit', 'on', true)
"""
PRUNE_EVERY = 60.0
PRUNE_ROWS = 2000
"""With one statement, which a delivery may have to wait for."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """One event, ready to travel. A repeat has the same bytes."""

    seq: int
    envelope: bytes
    payload: bytes
    salt: bytes


class Delivery(Protocol):
    """Where numbered events go."""

    def deliver(self, generation: str, batch: Sequence[Numbered]) -> int:
        """Takes the batch, all or none, durably, and returns the source's last number there. Raises AppError: reason
        SEQUENCE_GAP with metadata last_seq where numbers are missing before the batch, SOURCE_FORKED where one of them
        is known with another body."""


class AuditDelivery:
    """Delivers with `EventIngestService.AppendEvents`."""

    def __init__(self, stub: Any, timeout: float = DELIVERY_TIMEOUT):
        self._stub = stub
        self._timeout = timeout

    def deliver(self, generation: str, batch: Sequence[Numbered]) -> int:
        request = ingest_pb2.AppendEventsRequest(
            generation=generation,
            events=[
                ingest_pb2.SourceEvent(seq=one.seq, envelope=one.envelope, payload=one.payload, salt=one.salt)
                for one in batch
            ],
        )
        try:
            return self._stub.AppendEvents(request, timeout=self._timeout).last_seq
        except grpc.RpcError as e:
            raise from_rpc_error(e) from e


class LostSource(Exception):
    """Another replica has taken the source over."""


class Sequencer:
    """Runs in a thread of its own, from `start` to `stop`.

    dsn: the runtime role. source: the service's name, which is also what audit reads from the peer's certificate.
    """

    def __init__(self, dsn: str, source: str, delivery: Delivery | Any, *, max_events: int = MAX_EVENTS):
        self._dsn = dsn
        self._source = source
        self._delivery: Delivery = delivery if hasattr(delivery, "deliver") else AuditDelivery(delivery)
        self._max_events = max_events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sequencer-{source}", daemon=True)
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(4).hex()}"
        self.holding = threading.Event()
        """Set while this one holds the source."""
        self.delivered_seq = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Ends after the delivery under way. What is left is delivered by the next holder."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        backoff = Backoff(0.05, 5.0)
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self._dsn, autocommit=True, application_name="sequencer", row_factory=namedtuple_row
                ) as conn:
                    self._work(conn, backoff)
            except LostSource:
                log.info("source taken over by another replica", source=self._source)
            except psycopg.Error as e:
                log.warning("sequencer lost its database", source=self._source, error=str(e))
            except Exception:
                log.exception("sequencer failed", source=self._source)
            finally:
                self.holding.clear()
            self._stop.wait(backoff.next())

    def _work(self, conn: psycopg.Connection, backoff: Backoff) -> None:
        while (
            not conn.execute(
                "SELECT pg_try_advisory_lock(hashtext('animus sequencer'), hashtext(current_schema()::text)) AS got"
            )
            .fetchone()
            .got
        ):  # type: ignore[union-attr]
            if self._stop.wait(STANDBY_SECONDS):
                return
        held = _Held(conn, self._delivery, self._holder, self._max_events)
        # Only numbers must outlive a crash, and their statement sees to that itself: a lost cursor costs a repeat, which
        # is harmless, and a lost `sleeping` a look.
        conn.execute("SET synchronous_commit = off")
        self.delivered_seq = held.delivered_seq
        self.holding.set()
        log.info("holding the source", source=self._source, generation=held.generation, epoch=held.epoch)
        conn.execute("SELECT set_config('application_name', 'sequencer: ' || %s, false)", (self._holder[:40],))
        channel = conn.execute("SELECT quote_ident('outbox_' || current_schema()) AS name").fetchone().name  # type: ignore[union-attr]
        conn.execute(f"LISTEN {channel}")
        pruned = worked = time.monotonic()
        sleeps = -1  # index into SLEEP_POLLS; -1 while awake
        while not self._stop.is_set():
            try:
                found = held.step()
            except AppError as e:
                if not self._refused(e, held):
                    self._stop.wait(max(backoff.next(), e.retry_after or 0.0))
                continue
            self.delivered_seq = held.delivered_seq
            metrics.outbox_undelivered(self._source, held.last_seq - held.delivered_seq)
            now = time.monotonic()
            if found:
                backoff.reset()
                worked, sleeps = now, -1
            # Also while busy, and as long as there is more: otherwise the outbox of a source that never rests only grows.
            pruning = now - pruned > PRUNE_EVERY
            if pruning and held.prune() < PRUNE_ROWS:
                pruned, pruning = now, False
            if found or pruning:
                continue
            if sleeps < 0 and now - worked < AWAKE_FOR:
                self._stop.wait(AWAKE_POLL)
                continue
            if sleeps < 0:
                held.sleep()
                sleeps = 0
                continue  # once more, for what was committed meanwhile
            for _ in conn.notifies(timeout=SLEEP_POLLS[sleeps], stop_after=1):
                pass
            sleeps = min(sleeps + 1, len(SLEEP_POLLS) - 1)

    def _refused(self, e: AppError, held: _Held) -> bool:
        """What the log refused. True where the next try is another one."""
        if e.reason == "SEQUENCE_GAP" and "last_seq" in e.metadata:
            known = int(e.metadata["last_seq"])
            log.warning("the log is behind what was delivered", source=self._source, last_seq=known)
            return held.rewind(known)
        level = log.error if e.reason == "SOURCE_FORKED" else log.warning
        level("events are not delivered", source=self._source, reason=e.reason, error=e.message)
        return False


class _Held:
    """The source, while it is ours."""

    def __init__(self, conn: psycopg.Connection, delivery: Delivery, holder: str, max_events: int):
        self._conn = conn
        self._delivery = delivery
        self._max = max_events
        self._other_generations = True
        row = conn.execute(
            "UPDATE outbox_source SET epoch = epoch + 1, holder = %s, sleeping = false"
            " RETURNING generation::text, last_seq, delivered_seq, epoch, current_schema()::text AS source",
            (holder,),
        ).fetchone()
        if row is None:
            raise RuntimeError("the source has no row: was the schema migrated?")
        self.source, self.generation, self.epoch = row.source, row.generation, row.epoch
        self.last_seq, self.delivered_seq = row.last_seq, row.delivered_seq

    def step(self) -> bool:
        """Delivers one batch. False when there is nothing to do. Raises AppError, LostSource."""
        if self._other_generations:
            self._deliver_other_generations()
        batch = self._undelivered() if self.last_seq > self.delivered_seq else self._number()
        if not batch:
            return False
        self._delivery.deliver(self.generation, batch)
        moved = self._conn.execute(
            "UPDATE outbox_source SET delivered_seq = %s WHERE epoch = %s", (batch[-1].seq, self.epoch)
        ).rowcount
        if not moved:
            raise LostSource
        self.delivered_seq = batch[-1].seq
        return True

    def sleep(self) -> None:
        """From here on, writers send notices."""
        self._conn.execute("UPDATE outbox_source SET sleeping = true WHERE epoch = %s", (self.epoch,))

    def rewind(self, last_seq: int) -> bool:
        """Delivers again what the log has lost. False when that is not here any more."""
        first = (
            self._conn.execute(
                "SELECT min(seq) AS seq FROM outbox WHERE generation = %s AND seq > %s", (self.generation, last_seq)
            )
            .fetchone()
            .seq
        )  # type: ignore[union-attr]
        if last_seq >= self.delivered_seq or first != last_seq + 1:
            return False
        self.delivered_seq = last_seq
        self._conn.execute("UPDATE outbox_source SET delivered_seq = %s WHERE epoch = %s", (last_seq, self.epoch))
        return True

    def prune(self) -> int:
        """Deletes the oldest of what the log has had for a while; how many. Looks at no more than it may delete: times are
        nearly in the order of the numbers, and what is young is nearly all there is."""
        return self._conn.execute(
            "WITH oldest AS (SELECT id, event_time FROM outbox WHERE generation = %s AND seq <= %s ORDER BY seq LIMIT %s)"
            " DELETE FROM outbox USING oldest WHERE outbox.id = oldest.id"
            f" AND oldest.event_time < now() - interval '{KEEP_DELIVERED}'",
            (self.generation, self.delivered_seq, PRUNE_ROWS),
        ).rowcount

    def _number(self) -> list[Numbered]:
        rows = self._conn.execute(
            "SELECT id, event_id::text, event_type, event_time, project, resource, actor, request_id, payload"
            " FROM outbox WHERE seq IS NULL ORDER BY id LIMIT %s",
            (self._max,),
        ).fetchall()
        if not rows:
            return []
        rows = rows[: _fitting([len(row.payload) for row in rows])]
        batch = [self._envelope(row, self.last_seq + 1 + place) for place, row in enumerate(rows)]
        with self._conn.transaction():
            wrote = self._conn.execute(
                _NUMBER,
                {
                    "last_seq": batch[-1].seq,
                    "epoch": self.epoch,
                    "before": self.last_seq,
                    "generation": self.generation,
                    "ids": [row.id for row in rows],
                    "seqs": [one.seq for one in batch],
                    "envelopes": [one.envelope for one in batch],
                    "salts": [one.salt for one in batch],
                },
            ).fetchone()
            if (wrote.sources, wrote.filled) != (1, len(batch)):  # type: ignore[union-attr]
                raise LostSource
        self.last_seq = batch[-1].seq
        return batch

    def _envelope(self, row: Any, seq: int) -> Numbered:
        salt = os.urandom(event.SALT_BYTES)
        envelope = event.build_envelope(
            id=row.event_id,
            source=self.source,
            generation=self.generation,
            seq=seq,
            event_type=row.event_type,
            time=row.event_time,
            project=row.project or None,
            resource=row.resource,
            actor=row.actor,
            request_id=row.request_id or None,
            salt=salt,
            payload=row.payload,
        )
        return Numbered(seq, envelope, row.payload, salt)

    def _undelivered(self) -> list[Numbered]:
        """Numbered by an earlier holder, or before a delivery that failed."""
        rows = self._conn.execute(
            "SELECT seq, envelope, payload, salt FROM outbox WHERE generation = %s AND seq > %s ORDER BY seq LIMIT %s",
            (self.generation, self.delivered_seq, self._max),
        ).fetchall()
        if not rows or rows[0].seq != self.delivered_seq + 1:
            raise RuntimeError(f"the outbox does not hold number {self.delivered_seq + 1}")
        rows = rows[: _fitting([len(row.payload) for row in rows])]
        return [Numbered(*row) for row in rows]

    def _deliver_other_generations(self) -> None:
        """What was numbered, and not delivered, before the database was restored (see `new_generation`).

        The log mostly has it, since the database lived on after its backup; then it is a repeat. What the log refuses
        under the old generation is numbered anew under this one: told late is better than not told.
        """
        while True:
            rows = self._conn.execute(
                "SELECT generation::text, seq, envelope, payload, salt FROM outbox"
                " WHERE seq IS NOT NULL AND generation <> %s ORDER BY generation, seq LIMIT 100",
                (self.generation,),
            ).fetchall()
            if not rows:
                self._other_generations = False
                return
            old = rows[0].generation
            rows = [row for row in rows if row.generation == old]
            rows = rows[: _fitting([len(row.payload) for row in rows])]
            try:
                self._delivery.deliver(old, [Numbered(*row[1:]) for row in rows])
            except AppError as e:
                if e.reason not in ("SEQUENCE_GAP", "SOURCE_FORKED", "GENERATION_SUPERSEDED"):
                    raise
                log.warning("numbered anew", source=self.source, generation=old, reason=e.reason)
                self._conn.execute(
                    "UPDATE outbox SET generation = NULL, seq = NULL, envelope = NULL, salt = NULL WHERE generation = %s",
                    (old,),
                )
                continue
            self._conn.execute("DELETE FROM outbox WHERE generation = %s AND seq <= %s", (old, rows[-1].seq))


def new_generation(dsn: str) -> str:
    """To be called after a service's database was restored from a backup, before the service starts: numbers that the
    log may already have must not be given to other events. Returns the new generation."""
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "DELETE FROM outbox o USING outbox_source s WHERE o.generation = s.generation AND o.seq <= s.delivered_seq"
        )
        row = conn.execute(
            "UPDATE outbox_source SET generation = gen_random_uuid(), last_seq = 0, delivered_seq = 0,"
            " epoch = epoch + 1, sleeping = false RETURNING generation::text"
        ).fetchone()
        return row[0]  # type: ignore[index]


def _fitting(sizes: Sequence[int]) -> int:
    """How many of these fit into one delivery; at least one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size + 1024
        if total > MAX_BYTES and count:
            return count
    return len(sizes)
