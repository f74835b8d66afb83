"""The one writer of the log: requests that wait together are committed together.

One thread per process takes all that waits, locks the head row, checks each source's next seq, COPYs the leaves, moves
the head and commits. Replicas may run one each: the head row lets one write at a time. A handler answers after the commit.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from animus_kit.clock import Clock
from animus_kit.db.engine import is_away
from animus_kit.errors import AppError
from animus_kit.log import get_logger

from .domain.admission import Position, admit
from .domain.envelope import Leaf
from .domain.errors import LogUnavailable, WriterBusy
from .store import log as log_store

log = get_logger(__name__)

# A batch beyond this only makes its first requests wait longer: COPY gains nothing more.
MAX_BATCH_EVENTS = 4000
# What may wait in memory. At 2 KiB an event about 40 MiB.
MAX_WAITING_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Appended:
    last_seq: int
    log_size: int


@dataclass(slots=True)
class _Request:
    leaves: Sequence[Leaf]
    done: Future[Appended] = field(default_factory=Future)


class Writer:
    """start() once, submit() from any thread, stop() once: what was taken in is finished first."""

    def __init__(self, engine: Engine, clock: Clock, writer_id: str):
        self._engine = engine
        self._clock = clock
        self._writer_id = writer_id
        self._waiting: deque[_Request] = deque()
        self._waiting_events = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, leaves: Sequence[Leaf]) -> Future[Appended]:
        """leaves: checked, of one source and generation, at least one. The future's exception is an AppError."""
        request = _Request(leaves)
        with self._changed:
            if self._stopping:
                raise LogUnavailable()
            if self._waiting_events + len(leaves) > MAX_WAITING_EVENTS:
                raise WriterBusy()
            self._waiting.append(request)
            self._waiting_events += len(leaves)
            self._changed.notify_all()
        return request.done

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write(batch)
            except Exception as error:
                self._write_again(batch, error)

    def _take(self) -> list[_Request]:
        """All that waits, up to the batch size; empty only when stopping and nothing is left."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                batch: list[_Request] = []
                size = 0
                while self._waiting and (size == 0 or size + len(self._waiting[0].leaves) <= MAX_BATCH_EVENTS):
                    request = self._waiting.popleft()
                    self._waiting_events -= len(request.leaves)
                    # False: its caller has given up and cancelled it.
                    if request.done.set_running_or_notify_cancel():
                        batch.append(request)
                        size += len(request.leaves)
                if batch or self._stopping:
                    return batch

    def _write_again(self, batch: list[_Request], error: Exception) -> None:
        """A batch failed as a whole. One bad request must not take its neighbours with it; but where the database is
        away none can succeed, and each would wait for it in vain."""
        log.warning("a batch failed", requests=len(batch), error=type(error).__name__)
        if not is_away(error):
            return self._write_singly(batch)
        try:
            self._write(batch)  # perhaps only our connection was lost
        except Exception as still:
            if not is_away(still):
                return self._write_singly(batch)
            log.error("the log's database is away", error=str(still))
            for request in batch:
                if not request.done.done():
                    request.done.set_exception(LogUnavailable())

    def _write_singly(self, batch: list[_Request]) -> None:
        for request in batch:
            if request.done.done():
                continue
            try:
                self._write([request])
            except OperationalError as away:
                log.error("the log's database is away", error=str(away.orig))
                request.done.set_exception(LogUnavailable())
            except Exception as single:
                log.exception("append failed")
                request.done.set_exception(single)

    def _write(self, batch: list[_Request]) -> None:
        """One transaction. Results are given only after it has committed."""
        now = self._clock.now()
        results: list[tuple[_Request, Appended | AppError]] = []
        with self._engine.begin() as conn:
            frontier = log_store.lock_head(conn)
            old_size = frontier.size
            group = _Group(conn, batch, now)
            for request in batch:
                try:
                    last_seq = group.admit(request.leaves)
                    results.append((request, Appended(last_seq, 0)))
                except AppError as refused:
                    results.append((request, refused))
            if group.leaves:
                for _, leaf in group.leaves:
                    frontier.append(leaf.leaf_hash)
                log_store.copy_leaves(conn, old_size, group.leaves, now)
                log_store.move(conn, old_size, frontier, self._writer_id, group.last_seqs, now)
        for request, result in results:
            if isinstance(result, AppError):
                request.done.set_exception(result)
            else:
                request.done.set_result(Appended(result.last_seq, frontier.size))


class _Group:
    """What one transaction has taken in so far, beside what the log holds."""

    def __init__(self, conn: Connection, batch: list[_Request], now: datetime):
        self._conn = conn
        self._now = now
        self._rows = log_store.read_sources(conn, {_key(r.leaves[0]) for r in batch})
        self._fresh: dict[tuple[str, str], list[Leaf]] = {}
        self.leaves: list[tuple[int, Leaf]] = []
        self.last_seqs: dict[int, int] = {}

    def admit(self, leaves: Sequence[Leaf]) -> int:
        """Takes in what is new of a request. Returns the source's last seq. Raises what domain.admission raises."""
        key = _key(leaves[0])
        row = self._rows.get(key)
        position = row.position if row else Position(*key)
        new = admit(position, leaves, lambda first, last: self._known(key, first, last))
        if not new:
            return position.last_seq
        if row is None:
            row = log_store.add_source(self._conn, *key, self._now)
            for other, known in self._rows.items():
                if other[0] == key[0]:
                    old = known.position
                    self._rows[other] = log_store.SourceRow(
                        known.id, Position(old.source, old.generation, old.last_seq, superseded=True)
                    )
        last_seq = new[-1].seq
        self._rows[key] = log_store.SourceRow(row.id, Position(*key, last_seq, position.superseded))
        self._fresh.setdefault(key, []).extend(new)
        self.leaves.extend((row.id, leaf) for leaf in new)
        self.last_seqs[row.id] = last_seq
        return last_seq

    def _known(self, key: tuple[str, str], first: int, last: int) -> list[bytes]:
        fresh = self._fresh.get(key, [])
        fresh_from = fresh[0].seq if fresh else last + 1
        stored = (
            log_store.leaf_hashes(self._conn, self._rows[key].id, first, min(last, fresh_from - 1))
            if first < fresh_from
            else []
        )
        return stored + [leaf.leaf_hash for leaf in fresh if first <= leaf.seq <= last]


def _key(leaf: Leaf) -> tuple[str, str]:
    return leaf.source, leaf.generation
