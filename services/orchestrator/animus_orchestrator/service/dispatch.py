"""`animus.agent.v1.DispatchService`: where agents connect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_kit.names import ID_PATTERN
from animus_kit.server import context
from animus_orchestrator.dispatch.batcher import Batcher
from animus_orchestrator.dispatch.diagnostics import Diagnostics
from animus_orchestrator.dispatch.enrolment import Enrolment
from animus_orchestrator.dispatch.links import Link, Links
from animus_orchestrator.dispatch.work import Close, EventsWork, Open, Opened, StatusWork
from animus_orchestrator.domain.errors import ProtocolViolation, ServerDraining

HELLO_SECONDS = 10.0
_ATTEMPT = re.compile(
    rf"projects/{ID_PATTERN}/runs/{ID_PATTERN}/steps/{ID_PATTERN}/attempts/[1-9][0-9]{{0,17}}", re.ASCII
)


class DispatchService(pb_grpc.DispatchServiceServicer):
    def __init__(
        self,
        batcher: Batcher,
        links: Links,
        enrolment: Enrolment,
        diagnostics: Diagnostics,
        clock: Clock,
        status_interval: timedelta,
    ):
        self._batcher = batcher
        self._diagnostics = diagnostics
        self._links = links
        self._enrolment = enrolment
        self._clock = clock
        self._interval = Duration()
        self._interval.FromTimedelta(status_interval)

    async def Connect(self, requests: AsyncIterator[pb.AgentMessage], _: Any) -> AsyncIterator[pb.ControlMessage]:
        if self._links.draining:
            raise ServerDraining("this server is going down", retry_after=1.0)
        peer = context.current().peer
        hello = await _hello(requests)
        opened: Opened = await self._batcher.submit(Open(peer.name, peer.serial, hello))
        task = asyncio.current_task()
        link = self._links.add(opened.session, task.cancel if task is not None else lambda: None)
        reader: asyncio.Task[None] | None = None
        try:
            yield pb.ControlMessage(welcome=self._welcome(opened))
            yield pb.ControlMessage(directive=opened.directive)
            reader = asyncio.create_task(self._read(requests, link), name=f"read-{peer.name}")
            async for message in link.messages():
                yield message
        finally:
            self._links.remove(link)
            if reader is not None:
                reader.cancel()
                # A read that is cut off by the end of the RPC raises; there is nobody left to tell.
                await asyncio.gather(reader, return_exceptions=True)
            await self._batcher.post(Close(opened.session))

    async def RenewCertificate(self, request: pb.RenewCertificateRequest, _: Any) -> pb.RenewCertificateResponse:
        peer = context.current().peer
        return await asyncio.to_thread(self._enrolment.renew, peer.name, peer.serial, request)

    def _welcome(self, opened: Opened) -> pb.Welcome:
        now = Timestamp()
        now.FromDatetime(self._clock.now())
        return pb.Welcome(
            session=opened.session.agent.session,
            server_time=now,
            status_interval=self._interval,
            trust_bundle=self._enrolment.trust_bundle(),
            acknowledged_seq=opened.acknowledged_seq,
        )

    async def _read(self, requests: AsyncIterator[pb.AgentMessage], link: Link) -> None:
        lines = self._diagnostics.of(link.session.agent.id)
        try:
            async for message in requests:
                match message.WhichOneof("message"):
                    case "diagnostics":
                        await lines.take(message.diagnostics)
                        continue
                    case "status":
                        _check_names(held.attempt for held in message.status.held)
                        now = self._clock.now()
                        known = link.idle.answer(link.session, message.status, now, self._clock.monotonic())
                        if known is not None:
                            await link.answer_with(known)
                            continue
                        answer = await self._batcher.post(StatusWork(link.session, message.status))
                        link.idle.follow(link.session, message.status, answer, self._clock.monotonic())
                        await link.answer_with(answer)
                        continue
                    case "events":
                        if message.events.spool_id != link.session.spool_id:
                            raise ProtocolViolation("events of another spool than hello announced")
                        _check_names(event.attempt for event in message.events.events)
                        work = EventsWork(link.session, message.events)
                    case _:
                        raise ProtocolViolation("hello is the first message of a session, and only that")
                await link.answer_with(await self._batcher.post(work))
            link.end()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            link.end(error)


async def _hello(requests: AsyncIterator[pb.AgentMessage]) -> pb.Hello:
    try:
        first = await asyncio.wait_for(anext(aiter(requests)), HELLO_SECONDS)
    except (StopAsyncIteration, TimeoutError):
        raise ProtocolViolation("a session begins with hello") from None
    if first.WhichOneof("message") != "hello":
        raise ProtocolViolation("a session begins with hello")
    _check_names(held.attempt for held in first.hello.status.held)
    return first.hello


def _check_names(names: Iterable[str]) -> None:
    """What is no attempt's name must not reach a query in which other agents' work is done too."""
    for name in names:
        if _ATTEMPT.fullmatch(name) is None:
            raise ProtocolViolation("not the name of an attempt")
