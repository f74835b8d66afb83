"""Open streams of this process, and what is sent to them without their asking."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from google.protobuf.duration_pb2 import Duration

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit.log import get_logger
from animus_orchestrator.dispatch.batcher import Batcher
from animus_orchestrator.dispatch.work import Look, SessionState
from animus_orchestrator.domain.errors import SessionSuperseded
from animus_orchestrator.store.listen import AGENT, READY, SESSION, Hub

log = get_logger(__name__)
MAX_UNANSWERED = 64
"""Messages of one agent that wait for the database; beyond that its stream is not read."""

BURST_SECONDS = 0.02


class Link:
    """One agent's stream: answers in the order of the questions, and pushes in between."""

    def __init__(self, session: SessionState):
        self.session = session
        self._out: asyncio.Queue[object] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_UNANSWERED)

    async def answer_with(self, answer: asyncio.Future) -> None:
        """Sends what the future will hold, when its turn comes."""
        await self._room.acquire()
        self._out.put_nowait(answer)

    def push(self, message: pb.ControlMessage) -> None:
        self._out.put_nowait(message)

    def end(self, error: Exception | None = None) -> None:
        """Ends the stream after what is queued: well, or with an error."""
        self._out.put_nowait(error)

    async def messages(self) -> AsyncIterator[pb.ControlMessage]:
        """Raises: the error that the stream ends with."""
        while True:
            item = await self._out.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, asyncio.Future):
                self._room.release()
                answer = await item
                for message in answer if isinstance(answer, list) else [pb.ControlMessage(directive=answer)]:
                    yield message
            else:
                yield item


class Links:
    """All open streams, by agent, and the task that looks after them when something changed elsewhere."""

    def __init__(self, batcher: Batcher, hub: Hub, poll_seconds: float = 1.0):
        self._batcher = batcher
        self._hub = hub
        self._poll = poll_seconds
        self._links: dict[str, Link] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._links)

    def start(self) -> None:
        self._hub.on(READY, lambda _: self._wake.set())
        self._hub.on(AGENT, self._changed)
        self._hub.on(SESSION, self._opened_somewhere)
        self._task = asyncio.create_task(self._run(), name="dispatch-links")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, session: SessionState) -> Link:
        """A newer session of the same agent ends the older one."""
        link = Link(session)
        old = self._links.get(session.agent.id)
        self._links[session.agent.id] = link
        if old is not None:
            old.end(SessionSuperseded(f"session {session.agent.session} of {session.agent.name} has taken over"))
        return link

    def remove(self, link: Link) -> None:
        if self._links.get(link.session.agent.id) is link:
            del self._links[link.session.agent.id]

    def drain(self, spread_seconds: float = 2.0) -> None:
        """Asks every agent to come back elsewhere, spread over a while, and ends the streams."""
        self.draining = True
        for link in list(self._links.values()):
            after = Duration()
            after.FromMilliseconds(int(random.uniform(0.1, spread_seconds) * 1000))
            link.push(pb.ControlMessage(reconnect=pb.Reconnect(after=after, reason="DRAINING")))
            link.end()

    def _changed(self, agent: str | None) -> None:
        self._dirty.update(self._links if agent is None else {agent} & self._links.keys())
        self._wake.set()

    def _opened_somewhere(self, payload: str | None) -> None:
        if payload is None:
            return
        agent, _, number = payload.rpartition("/")
        link = self._links.get(agent)
        if link is not None and number.isdigit() and int(number) > link.session.agent.session:
            self.remove(link)
            link.end(SessionSuperseded(f"session {number} of agents/{agent} has taken over"))

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), self._poll)
            except TimeoutError:
                pass
            self._wake.clear()
            dirty, self._dirty = self._dirty, set()
            changed = tuple(self._links[a].session for a in dirty if a in self._links)
            try:
                if changed:
                    self._send(await self._batcher.submit(Look(changed)))
                if self._links and not self.draining:
                    everyone = tuple(link.session for link in self._links.values())
                    self._send(await self._batcher.submit(Look(everyone, only_work=True)))
                # A burst of notices is one look: the first is answered at once, those behind it together.
                await asyncio.sleep(BURST_SECONDS)
            except Exception:  # the database is away: the next round looks again
                log.exception("looking for work failed")
                self._dirty |= dirty
                await asyncio.sleep(self._poll)

    def _send(self, directives: dict[str, pb.Directive]) -> None:
        for agent, directive in directives.items():
            link = self._links.get(agent)
            if link is not None:
                link.push(pb.ControlMessage(directive=directive))
