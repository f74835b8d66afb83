"""EventIngestService: proto ⇄ domain. The work is the writer's."""

from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Protocol

from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc
from animus_kit.errors import DeadlineExceeded
from animus_kit.server.context import current

from ..domain.envelope import BadEnvelope, Leaf, check
from ..domain.errors import EnvelopeInvalid
from ..writer import Appended, Writer

# What a request without a deadline waits for a commit. Its events may be in the log all the same: a repeat tells.
LONGEST_WAIT_SECONDS = 30.0


class Sent(Protocol):
    """One event as its source sends it."""

    seq: int
    envelope: bytes
    payload: bytes
    salt: bytes


class EventIngestService(rpc.EventIngestServiceServicer):
    def __init__(self, writer: Writer):
        self._writer = writer

    def AppendEvents(self, request: pb.AppendEventsRequest, context) -> pb.AppendEventsResponse:
        # The source is who the certificate says, never what the request says.
        source = current().peer.name
        appended = append(self._writer, source, request.generation, request.events, context.time_remaining())
        return pb.AppendEventsResponse(last_seq=appended.last_seq, log_size=appended.log_size)


class LocalDelivery:
    """Where audit's own sequencer delivers: the same writer without a wire, since audit is a source like every other."""

    def __init__(self, writer: Writer):
        self._writer = writer

    def deliver(self, generation: str, batch: Sequence[Sent]) -> int:
        return append(self._writer, "audit", generation, batch, None).last_seq


def append(writer: Writer, source: str, generation: str, events: Sequence[Sent], timeout: float | None) -> Appended:
    """Checks, hands to the writer, waits for the commit. timeout: seconds, None where the caller set none."""
    done = writer.submit(leaves(source, generation, events))
    try:
        return done.result(LONGEST_WAIT_SECONDS if timeout is None else min(timeout, LONGEST_WAIT_SECONDS))
    except FutureTimeout:
        done.cancel()
        raise DeadlineExceeded("the log did not take the events in time") from None


def leaves(source: str, generation: str, events: Sequence[Sent]) -> list[Leaf]:
    """Raises EnvelopeInvalid, which names the event."""
    found = []
    for position, event in enumerate(events):
        try:
            found.append(check(source, generation, event.seq, event.envelope, event.payload, event.salt))
        except BadEnvelope as bad:
            raise EnvelopeInvalid(position, event.seq, str(bad)) from None
    return found
