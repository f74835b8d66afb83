"""The proxy of one attempt: open while its container runs, opened again by an agent that adopts it."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from pathlib import Path

from animus_agent.egress import namespace
from animus_agent.egress.proxy import Proxy, Resolve, resolve
from animus_agent.egress.record import Record
from animus_agent.egress.rules import Ceiling
from animus_kit.clock import Clock
from animus_kit.documents.action import EGRESS_PORT
from animus_kit.documents.sandbox import Egress

STOP_SECONDS = 10.0


class Gateway:
    """A thread with an event loop of its own: one attempt's traffic waits for no other's.

    `file`: where decisions are kept. The agent's death cuts every connection; the next process opens the gateway anew.
    """

    def __init__(
        self, allow: tuple[str, ...], ceiling: Ceiling, file: Path, clock: Clock, resolver: Resolve = resolve
    ) -> None:
        self._allow = allow
        self._record = Record(file, clock)
        self._proxy = Proxy(allow, ceiling, self._record, resolver)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._thread: threading.Thread | None = None

    def open(self, container: int) -> None:
        """`container`: a descriptor of the container's network namespace. Raises OSError: the port may be taken, by a
        step that sat down on it while no agent was there."""
        self.serve(namespace.listen(container, EGRESS_PORT))

    def serve(self, listener: socket.socket) -> None:
        """Answers on a socket that listens."""
        self._record.save()
        started: Future[None] = Future()

        async def begin() -> None:
            self._server = await self._proxy.start(listener)
            started.set_result(None)

        def live() -> None:
            loop = self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            try:
                loop.run_until_complete(begin())
                loop.run_forever()
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                raise
            finally:
                loop.close()

        self._thread = threading.Thread(target=live, name="egress", daemon=True)
        self._thread.start()
        started.result(STOP_SECONDS)

    def close(self) -> None:
        """Cuts everything and writes the record down. Repeatable."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return

        async def end() -> None:
            if self._server is not None:
                self._server.close()
            await self._proxy.stop()

        try:
            asyncio.run_coroutine_threadsafe(end(), loop).result(STOP_SECONDS)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_SECONDS)
            self._thread = self._loop = None
            self._record.save()

    def document(self) -> Egress:
        return self._record.document(self._allow)
