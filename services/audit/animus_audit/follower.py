"""Tells streams when the log has grown: LISTEN is the hint, polling is the truth.

One thread for all streams of a process; it hands each new size to the event loop that serves them.
"""

import asyncio
import logging
import threading

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from .store import log

logger = logging.getLogger(__name__)

# How late a stream is when every notice is lost.
POLL_SECONDS = 1.0


class Follower:
    """start() from the event loop that will wait on it; stop() from anywhere."""

    def __init__(self, engine: Engine, poll_seconds: float = POLL_SECONDS):
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grown = asyncio.Event()
        self.size = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """The thread ends within a poll; it is a daemon and holds nothing that must be saved."""
        self._stopping.set()

    async def wait_beyond(self, size: int, timeout: float) -> int:
        """Returns the log's size as soon as it is more than size, or after timeout seconds whatever it is."""
        try:
            async with asyncio.timeout(timeout):
                while self.size <= size:
                    await self._grown.wait()
        except TimeoutError:
            pass
        return self.size

    def _publish(self, size: int) -> None:
        if size != self.size:
            self.size = size
            # Whoever waits on the old event wakes; whoever comes later waits on the new one.
            self._grown.set()
            self._grown = asyncio.Event()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the log cannot be followed now: %s", type(error).__name__)
            except Exception:
                logger.exception("the log's follower starts again")
            self._stopping.wait(self._poll_seconds)

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(f"LISTEN {log.CHANNEL}")
            driver = conn.connection.driver_connection
            while not self._stopping.is_set():
                size = log.read_size(conn)
                try:
                    self._loop.call_soon_threadsafe(self._publish, size)
                except RuntimeError:
                    # The loop is closed: the process is ending.
                    self._stopping.set()
                    return
                for _ in driver.notifies(timeout=self._poll_seconds, stop_after=1):
                    pass
