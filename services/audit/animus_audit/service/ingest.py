"""EventIngestService: proto ⇄ domain. The work is the writer's."""

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc
from animus_kit.errors import DeadlineExceeded
from animus_kit.server.context import current

from ..domain.envelope import BadEnvelope, Leaf, check
from ..domain.errors import EnvelopeInvalid
from ..writer import Appended, Writer

# What a request without a deadline waits for a commit. Its events may be in the log all the same: a repeat tells.
_LONGEST_WAIT_SECONDS = 30.0


class EventIngestService(rpc.EventIngestServiceServicer):
    def __init__(self, writer: Writer):
        self._writer = writer

    def AppendEvents(self, request: pb.AppendEventsRequest, context) -> pb.AppendEventsResponse:
        ctx = current()
        remaining = context.time_remaining()
        return append(self._writer, ctx.peer.name, request, remaining)


def append(
    writer: Writer, source: str, request: pb.AppendEventsRequest, timeout: float | None
) -> pb.AppendEventsResponse:
    """source: the name of the authenticated service. timeout: seconds, None where the caller set none."""
    done = writer.submit(leaves(source, request))
    appended = _wait(done, min(timeout or _LONGEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS))
    return pb.AppendEventsResponse(last_seq=appended.last_seq, log_size=appended.log_size)


def leaves(source: str, request: pb.AppendEventsRequest) -> list[Leaf]:
    """Raises EnvelopeInvalid, which names the event."""
    found = []
    for position, event in enumerate(request.events):
        try:
            found.append(check(source, request.generation, event.seq, event.envelope, event.payload, event.salt))
        except BadEnvelope as bad:
            raise EnvelopeInvalid(position, event.seq, str(bad)) from None
    return found


def _wait(done: Future[Appended], timeout: float) -> Appended:
    try:
        return done.result(timeout)
    except FutureTimeout:
        done.cancel()
        raise DeadlineExceeded("the log did not take the events in time") from None


class LocalIngest:
    """AppendEvents without a wire, for audit's own sequencer: audit is a source like every other."""

    def __init__(self, writer: Writer):
        self._writer = writer

    def AppendEvents(self, request: pb.AppendEventsRequest, timeout: float | None = None) -> pb.AppendEventsResponse:
        return append(self._writer, "audit", request, timeout)
