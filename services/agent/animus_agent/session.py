"""One session with dispatch: a stream on which each side states what it holds and what it wants.

One task reads, one writes. The writer sends what the spool has and, at the interval or when something changed, the
agent's whole state; nothing waits for an answer, and every answer may be late, lost or doubled. Results go at once; all
other news waits a moment for more: each message costs dispatch a transaction, and a result would wait behind them.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc
from animus.orchestrator.v1 import node_pb2
from animus_agent.diagnostics import Diagnostics
from animus_agent.errors import IdentityError, SpoolUnavailable
from animus_agent.held import Holdings
from animus_agent.identity import Identity
from animus_agent.reporter import to_event
from animus_agent.spool import Spool
from animus_kit.clock import Clock
from animus_kit.log import get_logger

log = get_logger(__name__)

# Until dispatch has told its own.
FIRST_INTERVAL = 5.0
# How long news other than a result may wait. A step shorter than this is told in one message.
GATHER_SECONDS = 0.25
# At most so often the agent's own log lines are sent.
LOGS_SECONDS = 2.0
# So many statuses later, rows that nobody acknowledged are taken for lost and sent again.
UNANSWERED_STATUSES = 3
# Statuses whose answer may still come.
REMEMBERED_STATUSES = 64


@dataclass(frozen=True, slots=True)
class Opening:
    """Who this process is, and what its node is like."""

    instance_id: str
    boot_id: str
    node: node_pb2.NodeInfo


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: `after` seconds the agent may come back."""

    reason: str
    after: float


class Session:
    """Made anew for each connection. `poke` may be called from any thread."""

    def __init__(
        self,
        opening: Opening,
        holdings: Holdings,
        spool: Spool,
        identity: Identity,
        clock: Clock,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        self._opening = opening
        self._diagnostics = diagnostics
        self._logs_at = 0.0
        self._holdings = holdings
        self._spool = spool
        self._identity = identity
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._interval = FIRST_INTERVAL
        # When rows and state are to be sent, on the monotonic clock.
        self._rows_at = math.inf
        self._status_at = math.inf
        self._sequence = 0
        self._stated: OrderedDict[int, float] = OrderedDict()
        # The highest Status that was answered, and when it was stated; at first the one that the session began with.
        self._answered = 0
        self._answered_at: float | None = None
        self._sent_seq: int | None = None
        # How far dispatch has acknowledged, and when it last got further or had nothing left to acknowledge.
        self._acked_seq = 0
        self._acked_at = math.inf
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self.welcomed = False
        self.unschedulable = ""

    def poke(self, *, state: bool, at_once: bool = False) -> None:
        """Something to send: rows in the spool, or with `state` a changed state."""

        def wake() -> None:
            at = self._clock.monotonic() + (0.0 if at_once else GATHER_SECONDS)
            if state:
                self._status_at = min(self._status_at, at)
            else:
                self._rows_at = min(self._rows_at, at)
            self._wake.set()

        # A loop that is being closed has nobody left to wake.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(wake)

    def end(self, reason: str, after: float = 0.0) -> None:
        """Closes the session, from the loop's thread."""
        if not self._ended.done():
            self._ended.set_result(Ended(reason, after))

    async def run(self, channel: Any) -> Ended:
        """Returns when the session is over. Raises grpc.aio.AioRpcError when the stream broke."""
        call = dispatch_pb2_grpc.DispatchServiceStub(channel).Connect(self._messages())
        reader = asyncio.ensure_future(self._read(call))
        try:
            await asyncio.wait({reader, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                return self._ended.result()
            await reader
            return Ended("CLOSED", 0.0)
        finally:
            call.cancel()
            reader.cancel()
            self.end("CLOSED")
            self._wake.set()
            await asyncio.gather(reader, return_exceptions=True)

    async def _messages(self) -> AsyncIterator[pb.AgentMessage]:
        opening = self._opening
        hello = pb.Hello(
            instance_id=opening.instance_id,
            boot_id=opening.boot_id,
            spool_id=self._spool.spool_id,
            node=opening.node,
            status=self._status(),
        )
        yield pb.AgentMessage(hello=hello)
        while not self._ended.done():
            left = min(self._rows_at, self._status_at) - self._clock.monotonic()
            if left > 0:
                try:
                    await asyncio.wait_for(self._wake.wait(), left)
                except TimeoutError:
                    pass
                self._wake.clear()
                continue
            # Rows go before the state: an attempt that is told as ended is one whose result is on its way.
            self._rows_at = math.inf
            while (events := self._events()) is not None:
                yield pb.AgentMessage(events=events)
            if self._clock.monotonic() >= self._status_at:
                yield pb.AgentMessage(status=self._status())
            if (lines := self._log_lines()) is not None:
                yield pb.AgentMessage(diagnostics=lines)

    def _status(self) -> pb.Status:
        self._status_at = self._clock.monotonic() + self._interval
        if self._clock.monotonic() - self._acked_at > UNANSWERED_STATUSES * self._interval:
            self._send_again()
        self._sequence += 1
        self._stated[self._sequence] = self._clock.monotonic()
        if self._answered_at is None:
            self._answered_at = self._stated[self._sequence]
        while len(self._stated) > REMEMBERED_STATUSES:
            self._stated.popitem(last=False)
        status = pb.Status(
            sequence=self._sequence,
            held=self._holdings.states(),
            room=self._holdings.room(),
            draining=self._holdings.draining,
        )
        status.client_time.FromDatetime(self._clock.now())
        return status

    def _log_lines(self) -> pb.Diagnostics | None:
        """Now and then, beside what is sent anyway: nobody waits for them."""
        now = self._clock.monotonic()
        if self._diagnostics is None or not self.welcomed or now < self._logs_at:
            return None
        self._logs_at = now + LOGS_SECONDS
        return self._diagnostics.take()

    def _events(self) -> pb.Events | None:
        """The next rows that this session has not sent; None before dispatch has said where it stands."""
        if self._sent_seq is None:
            return None
        after = self._sent_seq
        rows = self._spool.after(after)
        if not rows:
            return None
        self._sent_seq = rows[-1].seq
        if self._acked_at == math.inf:
            self._acked_at = self._clock.monotonic()
        return pb.Events(spool_id=self._spool.spool_id, after_seq=after, events=[to_event(row) for row in rows])

    def _send_again(self) -> None:
        """From the first row that dispatch has not acknowledged. What it has it knows by its number."""
        if self._sent_seq is not None and self._sent_seq > self._acked_seq:
            log.warning("rows are sent again", after_seq=self._acked_seq, sent_seq=self._sent_seq)
            self._sent_seq = self._acked_seq
            self._rows_at = self._clock.monotonic()
            self._wake.set()
        self._acked_at = math.inf

    async def _read(self, call: Any) -> None:
        async for message in call:
            try:
                self._take(message)
            except SpoolUnavailable as error:
                # Not done; the next message asks for it again.
                log.error("the spool is unavailable", error_text=str(error))

    def _take(self, message: pb.ControlMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "welcome":
            self._welcome(message.welcome)
        elif kind == "directive":
            self._directive(message.directive)
        elif kind == "events_ack":
            self._acknowledged(message.events_ack)
        elif kind == "reconnect":
            after = message.reconnect.after.ToTimedelta().total_seconds()
            self.end(message.reconnect.reason or "RECONNECT", after)

    def _welcome(self, welcome: pb.Welcome) -> None:
        interval = welcome.status_interval.ToTimedelta().total_seconds()
        if interval > 0:
            self._interval = interval
        if welcome.trust_bundle:
            try:
                if self._identity.take_bundle(welcome.trust_bundle):
                    log.info("trust bundle taken", sequence=self._identity.bundle().sequence)
            except IdentityError as error:
                # Ours stays in force: a lower sequence or a bad signature is an attack or a mistake, never news.
                log.error("trust bundle refused", reason=error.reason, message_text=str(error))
        if not self._spool.issued(welcome.acknowledged_seq):
            # Dispatch has more of this spool than it ever gave out: it was put back from a copy, and its numbers would
            # be taken for repetitions. Under another name everything left is told anew.
            log.error("the spool is older than what dispatch has of it", acknowledged_seq=welcome.acknowledged_seq)
            self._spool.rename()
            self.end("SPOOL_RENAMED")
            return
        self._sent_seq = self._acked_seq = welcome.acknowledged_seq
        self._rows_at = self._clock.monotonic()
        self._status_at = min(self._status_at, self._rows_at + self._interval)
        self.welcomed = True
        log.info("session opened", session=welcome.session, acknowledged_seq=welcome.acknowledged_seq)
        self._wake.set()
        # Last: a disk that does not take it now must not keep what follows from being sent. A welcome comes once.
        self._spool.acknowledge(welcome.acknowledged_seq)

    def _directive(self, directive: pb.Directive) -> None:
        # Whenever this arrives, it was written after the Status it answers; and what the server says on its own, after
        # the last that it has answered. A later one may not have got there.
        stated = self._stated.get(directive.status_sequence)
        if stated is not None and directive.status_sequence > self._answered:
            self._answered, self._answered_at = directive.status_sequence, stated
        if stated is None:
            assert self._answered_at is not None
            stated = self._answered_at
        # New work first: what is to be forgotten is removed from the disk, and can wait.
        for assignment in directive.assignments:
            with self._alone(assignment.attempt):
                self._holdings.assign(assignment, stated)
        for one in directive.attempts:
            with self._alone(one.attempt):
                self._holdings.direct(one, stated)
        if directive.assignments:
            self.poke(state=True)
        if directive.unschedulable_reason != self.unschedulable:
            self.unschedulable = directive.unschedulable_reason
            log.warning("schedulability changed", reason=self.unschedulable or "SCHEDULABLE")

    def _acknowledged(self, ack: pb.EventsAck) -> None:
        for name in ack.stale_attempts:
            with self._alone(name):
                self._holdings.stale(name)
        if ack.spool_id == self._spool.spool_id:
            self._spool.acknowledge(ack.seq)
            if ack.seq > self._acked_seq:
                self._acked_seq = ack.seq
                everything = self._sent_seq is not None and self._acked_seq >= self._sent_seq
                self._acked_at = math.inf if everything else self._clock.monotonic()
            if ack.resend:
                self._send_again()

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """What the disk refuses for one attempt keeps no other from its renewal or its end; it is asked for again."""
        try:
            yield
        except (OSError, SpoolUnavailable) as error:
            log.error("not done, for want of a disk", attempt=name, error_text=str(error))
