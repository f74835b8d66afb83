"""Tells streams when the log has grown, and by what: LISTEN is the hint, polling is the truth.

One thread for all streams of a process reads what is new once and wakes the event loop that serves them. Streams at the
end of the log, which is nearly all of them, ask the database nothing.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from animus_kit.log import get_logger

from .store import events
from .store import log as log_store
from .store.events import Filter, StoredEvent

log = get_logger(__name__)

# How late a stream is when every notice is lost.
POLL_SECONDS = 1.0
# What is kept of the newest events. A stream that is further behind reads the database.
KEPT_EVENTS = 500


@dataclass(frozen=True, slots=True)
class Recent:
    """The events from `start` to before `end`, all of them."""

    start: int
    end: int
    events: tuple[StoredEvent, ...] = ()

    def after(self, index: int, where: Filter) -> tuple[list[StoredEvent], int] | None:
        """Those from index on for which the filter holds, as many as one answer may weigh, and the index to go on from.
        None when some of them are no longer here."""
        if index < self.start:
            return None
        found, room = [], events.MAX_PAGE_BYTES
        for event in self.events[index - self.start :]:
            if not where.holds(event):
                continue
            room -= event.weight
            if room < 0 and found:
                return found, event.index
            found.append(event)
        return found, max(index, self.end)


class Follower:
    """A task of the process: start(), stop(). Streams wait on it, all on one event loop."""

    def __init__(self, engine: Engine, poll_seconds: float = POLL_SECONDS, channel: str = log_store.CHANNEL):
        self._engine = engine
        self._channel = channel
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._size = 0
        self._recent = Recent(0, 0)

    @property
    def recent(self) -> Recent:
        """What the log grew by last. Replaced, never changed."""
        return self._recent

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Streams that wait end. The thread ends within a poll; it is a daemon and holds nothing that must be saved."""
        self._stopping.set()
        self._wake()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    async def wait_beyond(self, size: int, timeout: float) -> int:
        """Returns the log's size as soon as it is more than size, or after timeout seconds, or when stopping."""
        self._loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                # The thread sets the size before it wakes the loop, so nothing is missed between looking and waiting.
                while self._size <= size and not self.stopping:
                    await self._changed.wait()
        return self._size

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._on_loop)

    def _on_loop(self) -> None:
        # Whoever waits on the old event wakes; whoever comes later waits on the new one.
        self._changed.set()
        self._changed = asyncio.Event()

    def _run(self) -> None:
        while not self.stopping:
            try:
                self._listen()
            except (SQLAlchemyError, psycopg.Error, OSError) as error:
                if not self.stopping:
                    log.warning("the log cannot be followed now", error=type(error).__name__)
            except Exception:
                log.exception("the log's follower starts again")
            self._stopping.wait(self._poll_seconds)

    def _read(self, conn: Connection, size: int) -> Recent:
        """What is kept at this size. Nothing before the first stream has come, nor when too much came at once."""
        known = self._recent
        if self._loop is None or not known.end < size <= known.end + KEPT_EVENTS:
            return Recent(size, size)
        page = events.scan(conn, Filter(), start=known.end, end=size, limit=size - known.end)
        if len(page.events) < size - known.end:  # they weigh too much
            return Recent(size, size)
        kept = (*known.events, *page.events)[-KEPT_EVENTS:]
        return Recent(size - len(kept), size, kept)

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(f"LISTEN {self._channel}")
            driver = conn.connection.driver_connection
            while not self.stopping:
                size = log_store.read_size(conn)
                if size != self._size:
                    self._recent = self._read(conn, size)
                    self._size = size
                    self._wake()
                for _ in driver.notifies(timeout=self._poll_seconds, stop_after=1):
                    pass
