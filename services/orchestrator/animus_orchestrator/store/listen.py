"""PostgreSQL notices as hints: everything here is right when every one of them is lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import psycopg

from animus_kit.log import get_logger

READY = "orchestrator_ready"
"""A step became ready. Payload: empty."""
RUN = "orchestrator_run"
"""A run changed. Payload: its uid."""
LOGS = "orchestrator_logs"
"""An attempt's log grew. Payload: `<step uid>/<number>`."""
SESSION = "orchestrator_session"
"""An agent opened a session. Payload: `<agent>/<session>`."""
AGENT = "orchestrator_agent"
"""Something changed for an agent: an attempt of its is to be canceled. Payload: its id."""

log = get_logger(__name__)


class Hub:
    """One LISTEN connection; waits are by (channel, payload)."""

    def __init__(self, dsn: str, channels: tuple[str, ...]):
        self._dsn = dsn
        self._channels = channels
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._callbacks: dict[str, Callable[[str | None], None]] = {}
        self._task: asyncio.Task[None] | None = None

    def on(self, channel: str, callback: Callable[[str | None], None]) -> None:
        """Calls back with the payload, and with None when notices may have been missed."""
        self._callbacks[channel] = callback

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="listen")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def subscribe(self, channel: str, payload: str = "") -> Subscription:
        """Subscribe before reading the database: a notice between the read and the wait is then not missed."""
        return Subscription(self._waiting, (channel, payload))

    def wake_all(self) -> None:
        for callback in self._callbacks.values():
            callback(None)
        for events in list(self._waiting.values()):
            for event in events:
                event.set()

    async def _run(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
                    for channel in self._channels:
                        await conn.execute(f"LISTEN {channel}")
                    # What happened while nobody listened is found by looking.
                    self.wake_all()
                    async for notice in conn.notifies():
                        if callback := self._callbacks.get(notice.channel):
                            callback(notice.payload)
                        for key in ((notice.channel, notice.payload), (notice.channel, "")):
                            for event in self._waiting.get(key, ()):
                                event.set()
            except (psycopg.Error, OSError) as error:
                log.warning("listening failed", extra={"error": str(error)})
                await asyncio.sleep(1.0)


class Subscription:
    """Use as a context manager; `wait` returns at a notice or after `seconds`, whichever comes first."""

    def __init__(self, waiting: dict[tuple[str, str], set[asyncio.Event]], key: tuple[str, str]):
        self._waiting, self._key, self._event = waiting, key, asyncio.Event()

    def __enter__(self) -> Subscription:
        self._waiting[self._key].add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        events = self._waiting[self._key]
        events.discard(self._event)
        if not events:
            del self._waiting[self._key]

    async def wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            pass
        self._event.clear()
