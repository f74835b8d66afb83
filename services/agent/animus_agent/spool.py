"""What the agent has to tell, on disk until dispatch has it on its own.

SQLite in WAL mode. Rows that decide something (accepted, RUNNING, result) are committed with synchronous=FULL; logs,
points and FINISHING only survive the death of this process, and become durable with the next that decides. A reboot may
lose such rows after they were sent, and their numbers would be given out again: so a spool that finds another boot id
takes a new spool id, under which everything left is sent anew; dispatch applies events by attempt, state and offset.

The spool also remembers which attempts this node has had: none is accepted twice.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from animus_agent.errors import SpoolUnavailable
from animus_agent.files import boot_id
from animus_kit.ids import Ids

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists attempts (
    name text primary key, boot_id text not null, ended integer not null default 0, forgotten integer not null default 0,
    log_raw integer not null default 0, log_text integer not null default 0,
    points integer not null default 0, points_offset integer not null default 0
) without rowid;
create table if not exists events (
    seq integer primary key autoincrement, attempt text not null, kind text not null, body blob not null
);
create index if not exists events_attempt on events (attempt);
-- forgotten: 0, or the attempt's number among those that were.
create index if not exists attempts_forgotten on attempts (forgotten);
"""

RESULT = "result"
LOG = "log"
# The newest of the forgotten attempts are remembered, so many; a doubled assignment comes within minutes.
REMEMBERED = 100_000
PRUNE_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Row:
    seq: int
    attempt: str
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Cursors:
    """How far an attempt's log and metric points are kept here."""

    log_raw: int = 0
    log_text: int = 0
    points: int = 0
    points_offset: int = 0


class Spool:
    """Safe for many threads. `on_row` is called after each commit that added rows, with whether one of them is a result.

    `max_log_bytes` bounds what undelivered log may take. Beyond it, and where the disk is full, SpoolUnavailable is
    raised and nothing is lost: log and points wait in the attempt's folder, from where they came.
    """

    def __init__(
        self, path: Path, ids: Ids, *, max_log_bytes: int = 1 << 30, boot: Callable[[], str] = boot_id
    ) -> None:
        self._lock = threading.Lock()
        self._ids = ids
        self._boot = boot()
        self._max_log_bytes = max_log_bytes
        self.on_row: Callable[[bool], None] = lambda is_result: None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_SCHEMA)
        self.spool_id = self._identify(ids)
        self._log_bytes = self._one("select coalesce(sum(length(body)), 0) from events where kind = ?", LOG)

    def _identify(self, ids: Ids) -> str:
        known = dict(self._db.execute("select key, value from meta"))
        if known.get("boot_id") == self._boot:
            return known["spool_id"]
        return self._renamed(ids)

    def _renamed(self, ids: Ids) -> str:
        fresh = ids.uuid()
        with self._write(durable=True):
            self._db.executemany(
                "insert or replace into meta values (?, ?)", [("boot_id", self._boot), ("spool_id", fresh)]
            )
        return fresh

    def rename(self) -> None:
        """Takes a new spool id, under which everything that is left is told anew."""
        self.spool_id = self._renamed(self._ids)

    def issued(self, seq: int) -> bool:
        """Whether numbers up to this one were given out by this spool."""
        with self._lock:
            row = self._db.execute("select seq from sqlite_sequence where name = 'events'").fetchone()
        return seq <= (row[0] if row else 0)

    def accept(self, attempt: str, event: bytes) -> bool:
        """Remembers an attempt, durably, with its first event; False when this node has had it before."""
        with self._write(durable=True):
            added = self._db.execute(
                "insert or ignore into attempts (name, boot_id) values (?, ?)", (attempt, self._boot)
            ).rowcount
            if added:
                self._insert(attempt, "state", event)
        if added:
            self.on_row(False)
        return bool(added)

    def knows(self, attempt: str) -> bool:
        with self._lock:
            return self._db.execute("select 1 from attempts where name = ?", (attempt,)).fetchone() is not None

    def state(self, attempt: str, event: bytes, *, durable: bool) -> None:
        with self._write(durable=durable):
            self._insert(attempt, "state", event)
        self.on_row(False)

    def log(self, attempt: str, bodies: list[bytes], raw: int, text: int) -> None:
        """Chunks, all or none, and how far the log was read."""
        size = sum(map(len, bodies))
        with self._write(durable=False):
            if self._log_bytes and self._log_bytes + size > self._max_log_bytes:
                raise SpoolUnavailable(f"{self._log_bytes} bytes of log are not yet delivered", "SPOOL_FULL")
            for body in bodies:
                self._insert(attempt, LOG, body)
            self._db.execute("update attempts set log_raw = ?, log_text = ? where name = ?", (raw, text, attempt))
        with self._lock:
            self._log_bytes += size
        self.on_row(False)

    def points(self, attempt: str, body: bytes | None, count: int, offset: int) -> None:
        """Points, where there are any, and how far their file was read."""
        with self._write(durable=False):
            if body is not None:
                self._insert(attempt, "points", body)
            self._db.execute(
                "update attempts set points = ?, points_offset = ? where name = ?", (count, offset, attempt)
            )
        if body is not None:
            self.on_row(False)

    def result(self, attempt: str, event: bytes) -> bool:
        """The end of an attempt, durably, once; False when it was told before."""
        with self._write(durable=True):
            first = self._db.execute("update attempts set ended = 1 where name = ? and ended = 0", (attempt,)).rowcount
            if first:
                self._insert(attempt, RESULT, event)
        if first:
            self.on_row(True)
        return bool(first)

    def result_of(self, attempt: str) -> bytes | None:
        """The end of an attempt, while it is not yet acknowledged. Reads no other row: logs may fill the spool."""
        with self._lock:
            row = self._db.execute(
                "select body from events where attempt = ? and kind = ?", (attempt, RESULT)
            ).fetchone()
        return row[0] if row else None

    def cursors(self, attempt: str) -> Cursors:
        with self._lock:
            row = self._db.execute(
                "select log_raw, log_text, points, points_offset from attempts where name = ?", (attempt,)
            ).fetchone()
        return Cursors(*row) if row else Cursors()

    def open_attempts(self) -> dict[str, bool]:
        """Attempts not yet forgotten, and whether each has ended."""
        with self._lock:
            return {
                name: bool(ended)
                for name, ended in self._db.execute("select name, ended from attempts where forgotten = 0")
            }

    def after(self, seq: int, limit: int = 500, max_bytes: int = 1 << 20) -> list[Row]:
        """Undelivered rows in order, at most so many and so large together, at least one."""
        with self._lock:
            cursor = self._db.execute(
                "select seq, attempt, kind, body from events where seq > ? order by seq limit ?", (seq, limit)
            )
            rows: list[Row] = []
            size = 0
            for fields in cursor:
                row = Row(*fields)
                size += len(row.body)
                if rows and size > max_bytes:
                    break
                rows.append(row)
            return rows

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is durable at dispatch."""
        with self._write(durable=False):
            freed = self._db.execute(
                "select coalesce(sum(length(body)), 0) from events where seq <= ? and kind = ?", (seq, LOG)
            ).fetchone()[0]
            self._db.execute("delete from events where seq <= ?", (seq,))
        self._freed(freed)

    def forget(self, attempt: str) -> None:
        """Nothing more of this attempt is told; that this node has had it is remembered."""
        with self._write(durable=False):
            freed = self._one(
                "select coalesce(sum(length(body)), 0) from events where attempt = ? and kind = ?", attempt, LOG
            )
            self._db.execute("delete from events where attempt = ?", (attempt,))
            number = self._one("select coalesce(max(forgotten), 0) + 1 from attempts")
            self._db.execute("update attempts set forgotten = ?, ended = 1 where name = ?", (number, attempt))
            if number % PRUNE_EVERY == 0:
                self._db.execute("delete from attempts where forgotten between 1 and ?", (number - REMEMBERED,))
        self._freed(freed)

    def _freed(self, size: int) -> None:
        """Once it is committed: a full disk may refuse that, and the rows are then still there."""
        with self._lock:
            self._log_bytes -= size

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _insert(self, attempt: str, kind: str, body: bytes) -> None:
        self._db.execute("insert into events (attempt, kind, body) values (?, ?, ?)", (attempt, kind, body))

    def _one(self, query: str, *parameters: object) -> int:
        return self._db.execute(query, parameters).fetchone()[0]

    @contextmanager
    def _write(self, *, durable: bool) -> Iterator[None]:
        """One transaction. Raises SpoolUnavailable when the disk did not take it; nothing of it is kept then."""
        with self._lock:
            try:
                self._db.execute(f"pragma synchronous={'full' if durable else 'normal'}")
                self._db.execute("begin immediate")
                yield
                self._db.execute("commit")
            except sqlite3.OperationalError as error:
                self._roll_back()
                raise SpoolUnavailable(f"the spool cannot be written: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        # A full disk has SQLite do it by itself.
        if self._db.in_transaction:
            self._db.execute("rollback")
