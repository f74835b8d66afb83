"""EventIngestService over mTLS: the source is the certificate, and what is answered is durable."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc
from animus_audit.service.ingest import append
from animus_audit.verify import verify
from animus_audit.writer import Writer
from animus_kit.clock import SystemClock
from animus_kit.errors import DeadlineExceeded
from animus_kit.testing.contracts import assert_no_streams, assert_table_covers
from tests.services import refused

from .events import Source

PACKAGES = ("animus_audit", "animus_policy")


@pytest.fixture(autouse=True)
def the_log_holds_together(database):
    yield
    report = verify(database.engine("audit", 1))
    assert report.ok, report.problems


def test_append_and_repeat(ingest_as):
    source = Source("catalog")
    batch = source.next(3)
    first = ingest_as("catalog").AppendEvents(source.request(batch))
    assert first.last_seq == 3 and first.log_size >= 3
    again = ingest_as("catalog").AppendEvents(source.request(batch))
    assert again == first


def test_the_source_is_the_certificate(ingest_as):
    source = Source("catalog")
    with refused("INVALID_ARGUMENT", "ENVELOPE_INVALID") as refusal:
        ingest_as("orchestrator").AppendEvents(source.request(source.next(1)))
    assert "peer" in refusal.error.message and refusal.fields == {"events[0]"}


def test_gap_fork_and_superseded(ingest_as):
    catalog = ingest_as("catalog")
    source = Source("catalog")
    catalog.AppendEvents(source.request(source.next(2)))
    with refused("FAILED_PRECONDITION", "SEQUENCE_GAP") as refusal:
        catalog.AppendEvents(source.request([source.make(4)]))
    assert refusal.metadata["last_seq"] == "2"
    with refused("ABORTED", "SOURCE_FORKED") as refusal:
        catalog.AppendEvents(source.request([source.make(2)]))
    assert refusal.metadata["seq"] == "2"
    newer = Source("catalog")
    catalog.AppendEvents(newer.request(newer.next(1)))
    with refused("FAILED_PRECONDITION", "GENERATION_SUPERSEDED"):
        catalog.AppendEvents(source.request(source.next(1)))


def test_a_bad_event_in_the_middle_takes_none(ingest_as):
    source = Source("policy")
    good = source.next(3)
    bad = pb.SourceEvent()
    bad.CopyFrom(good[1])
    bad.payload = b"{}"
    with refused("INVALID_ARGUMENT", "ENVELOPE_INVALID") as refusal:
        ingest_as("policy").AppendEvents(source.request([good[0], bad, good[2]]))
    assert refusal.fields == {"events[1]"} and refusal.metadata["seq"] == "2"
    assert ingest_as("policy").AppendEvents(source.request(good)).last_seq == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.ClearField("events"), "events"),
        (lambda r: setattr(r, "generation", "x"), "generation"),
        (lambda r: setattr(r.events[0], "seq", 0), "events[0].seq"),
        (lambda r: setattr(r.events[0], "envelope", b""), "events[0].envelope"),
        (lambda r: setattr(r.events[0], "envelope", b"x" * 70_000), "events[0].envelope"),
        (lambda r: setattr(r.events[0], "salt", b"short"), "events[0].salt"),
        (lambda r: r.events.extend([r.events[0]] * 1000), "events"),
    ],
)
def test_bad_requests(ingest_as, change, field):
    source = Source("catalog")
    request = source.request(source.next(1))
    change(request)
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID") as refusal:
        ingest_as("catalog").AppendEvents(request)
    assert field in refusal.fields


def test_who_may_append(process, pki, people, ingest_as):
    source = Source("audit")
    with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
        ingest_as("audit").AppendEvents(source.request(source.next(1)))
    with pki.dial(process, "sync", "gateway") as channel:
        with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
            rpc.EventIngestServiceStub(channel).AppendEvents(source.request(source.next(1)), metadata=people.root)


def test_many_at_once_over_the_wire(ingest_as):
    sources = [Source(name) for name in ("catalog", "orchestrator", "policy", "lineage")]

    def send(source: Source) -> int:
        stub = ingest_as(source.name)
        for _ in range(10):
            last = stub.AppendEvents(source.request(source.next(20))).last_seq
        return last

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(send, sources)) == {200}


def test_the_tables_cover_the_descriptors():
    from animus_audit.permissions import ROWS, STREAM_ROWS, SYNC_ROWS

    names = ["EventService", "EventIngestService", "EventTailService", "EventStreamService"]
    assert_table_covers(ROWS, [f"animus.audit.v1.{name}" for name in names])
    assert_table_covers(SYNC_ROWS, [f"animus.audit.v1.{name}" for name in names[:2]])
    assert_table_covers(STREAM_ROWS, [f"animus.audit.v1.{name}" for name in names[2:]])
    assert_no_streams([f"animus.audit.v1.{name}" for name in names[:2]])


def test_a_caller_without_time_left_does_not_wait():
    source, writer = Source("catalog"), Writer(None, SystemClock(), "w1")  # not started: nothing is ever written
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        append(writer, source.name, source.generation, source.next(), 0.0)
    assert time.monotonic() - began < 10
