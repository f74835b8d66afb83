"""Open streams of this process, and what is sent to them without their asking."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable

from google.protobuf.duration_pb2 import Duration

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit.log import get_logger
from animus_orchestrator.dispatch.batcher import Batcher
from animus_orchestrator.dispatch.choosing import LEASES_AT_ONCE
from animus_orchestrator.dispatch.idle import Idle
from animus_orchestrator.dispatch.work import Look, SessionState
from animus_orchestrator.domain.errors import SessionSuperseded
from animus_orchestrator.store.listen import AGENT, READY, SESSION, Hub

log = get_logger(__name__)
MAX_UNANSWERED = 64
"""Messages of one agent that wait for the database; beyond that its stream is not read."""

MAX_PUSHED = 64
"""Messages that were pushed and not yet taken by the agent's side of the stream. Each tells the whole again, so that
whoever is this far behind loses nothing by a new session."""

STUCK_SECONDS = 30.0
"""An agent that takes nothing for so long is cut off: its stream would hold memory and tell it nothing."""

BURST_SECONDS = 0.02


class Link:
    """One agent's stream: answers in the order of the questions, and pushes in between. Bounded on both sides: what is
    asked waits for room, and who does not take what is pushed is cut off with `cut`."""

    def __init__(self, session: SessionState, cut: Callable[[], object] = lambda: None):
        self.session = session
        self._cut = cut
        self._out: asyncio.Queue[object] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_UNANSWERED)
        self._pushed = 0
        self._sending_since: float | None = None
        self.idle = Idle()

    async def answer_with(self, answer: asyncio.Future | pb.Directive) -> None:
        """Sends it, or what the future will hold, when its turn comes."""
        await self._room.acquire()
        self._out.put_nowait(answer)

    def push(self, message: pb.ControlMessage) -> None:
        self._pushed += 1
        if self._pushed > MAX_PUSHED:
            self.cut("too many messages wait for it")
        else:
            self._out.put_nowait(message)

    def end(self, error: Exception | None = None) -> None:
        """Ends the stream after what is queued: well, or with an error."""
        self._out.put_nowait(error)

    def cut(self, why: str) -> None:
        """Ends the stream at once, in the middle of a message if need be."""
        log.warning("an agent does not take its messages", agent=self.session.agent.id, why=why)
        self._cut()

    def stuck(self, now: float) -> bool:
        """Whether one message has waited for too long for the agent to take it. `now` as of time.monotonic()."""
        return self._sending_since is not None and now - self._sending_since > STUCK_SECONDS

    async def messages(self) -> AsyncIterator[pb.ControlMessage]:
        """Raises: the error that the stream ends with."""
        while True:
            item = await self._out.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            pushed = isinstance(item, pb.ControlMessage)
            answer = await item if isinstance(item, asyncio.Future) else item
            if isinstance(answer, pb.Directive):
                answer = pb.ControlMessage(directive=answer)
            # Whoever takes the next message has sent this one.
            self._sending_since = time.monotonic()
            for message in answer if isinstance(answer, list) else [answer]:
                yield message
            self._sending_since = None
            if pushed:
                self._pushed -= 1
            else:
                self._room.release()


def _assigned(directives: dict[str, pb.Directive | Exception]) -> int:
    return sum(len(one.assignments) for one in directives.values() if isinstance(one, pb.Directive))


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

    def add(self, session: SessionState, cut: Callable[[], object] = lambda: None) -> Link:
        """A newer session of the same agent ends the older one, in whichever order they come here."""
        link = Link(session, cut)
        old = self._links.get(session.agent.id)
        newer = link if old is None or old.session.agent.session < session.agent.session else old
        self._links[session.agent.id] = newer
        if old is not None:
            number = newer.session.agent.session
            (old if newer is link else link).end(
                SessionSuperseded(f"session {number} of {session.agent.name} has taken over")
            )
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
            now = time.monotonic()
            for link in [link for link in self._links.values() if link.stuck(now)]:
                self.remove(link)
                link.cut(f"none for {STUCK_SECONDS:.0f} s")
            dirty, self._dirty = self._dirty, set()
            changed = tuple(self._links[a].session for a in dirty if a in self._links)
            try:
                if changed:
                    self._send(await self._batcher.submit(Look(changed)))
                if self._links and not self.draining:
                    everyone = tuple(link.session for link in self._links.values())
                    found = await self._batcher.submit(Look(everyone, only_work=True))
                    self._send(found)
                    if _assigned(found) >= LEASES_AT_ONCE:
                        self._wake.set()  # as many as one transaction may: there is more
                # A burst of notices is one look: the first is answered at once, those behind it together.
                await asyncio.sleep(BURST_SECONDS)
            except Exception:  # the database is away: the next round looks again
                log.exception("looking for work failed")
                self._dirty |= dirty
                await asyncio.sleep(self._poll)

    def _send(self, directives: dict[str, pb.Directive | Exception]) -> None:
        for agent, directive in directives.items():
            link = self._links.get(agent)
            if link is None:
                continue
            if isinstance(directive, Exception):
                # Revoked, or superseded. What was refused may be an older session than the one that is open now.
                if link.session.closed:
                    self.remove(link)
                    link.end(directive)
            else:
                link.push(pb.ControlMessage(directive=directive))
