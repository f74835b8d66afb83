"""Tells streams when the log has grown: LISTEN is the hint, polling is the truth.

One thread for all streams of a process; it wakes the event loop that serves them.
"""

import asyncio
import contextlib
import threading

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from animus_kit.log import get_logger

from .store import log as log_store

log = get_logger(__name__)

# How late a stream is when every notice is lost.
POLL_SECONDS = 1.0


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

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(f"LISTEN {self._channel}")
            driver = conn.connection.driver_connection
            while not self.stopping:
                size = log_store.read_size(conn)
                if size != self._size:
                    self._size = size
                    self._wake()
                for _ in driver.notifies(timeout=self._poll_seconds, stop_after=1):
                    pass
