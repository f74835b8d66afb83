"""EventTailService and EventStreamService over mTLS: in index order, resumable, never silent, and ended by a drain."""

import threading
import uuid

import grpc
import pytest

from animus.audit.v1 import event_pb2, event_stream_pb2
from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc
from animus.policy.v1.role_binding_pb2 import RoleBinding
from animus_audit.__main__ import build
from animus_audit.settings import Settings
from tests.services import common, refused

from .events import Source

PACKAGES = ("animus_audit", "animus_policy")


@pytest.fixture(scope="module")
def source() -> Source:
    return Source("catalog")


@pytest.fixture
def send(ingest_as, source):
    def append(count=1, **changes):
        batch = source.next(count, **changes)
        return ingest_as("catalog").AppendEvents(source.request(batch)).log_size

    return append


def read(call, count: int):
    """Events until there are count, with the last next_index."""
    found, at = [], 0
    for answer in call:
        found += answer.events
        at = answer.next_index
        if len(found) >= count:
            call.cancel()
            return found, at
    raise AssertionError("the stream ended")


def test_a_tail_reads_the_past_and_then_follows(tail, send):
    size = send(5)
    call = tail.TailEvents(pb.TailEventsRequest(from_index=size - 5), timeout=20)
    answers = iter(call)
    first = next(answers)
    assert [e.index for e in first.events] == list(range(size - 5, size)) and first.next_index == size
    # The end of the log is told at once, so that a reader knows that it is there.
    end = next(answers)
    assert not end.events and end.next_index == size
    for _ in range(3):
        size = send(1)
        answer = next(answers)
        assert [e.index for e in answer.events] == [size - 1] and answer.next_index == size
        assert answer.events[0].envelope and answer.events[0].payload and len(answer.events[0].salt) == 32
    call.cancel()


def test_a_tail_resumes_where_it_was(tail, send):
    size = send(700)
    found, at = read(tail.TailEvents(pb.TailEventsRequest(from_index=0), timeout=20), 300)
    rest, _ = read(tail.TailEvents(pb.TailEventsRequest(from_index=at), timeout=20), size - at)
    indices = [e.index for e in [*found, *rest]]
    assert indices == list(range(size))


def test_types_filter_and_the_index_moves_on(tail, send):
    size = send(3)
    size = send(1, event_type="catalog.model-version.created", resource="projects/p/models/m/versions/1")
    size = send(2)
    request = pb.TailEventsRequest(from_index=size - 6, types=["catalog.model-version.created", "orchestrator."])
    answer = next(iter(tail.TailEvents(request, timeout=20)))
    assert [e.index for e in answer.events] == [size - 3]
    assert answer.next_index == size


def test_beyond_the_log_is_an_alarm(tail, send):
    size = send(1)
    with refused("OUT_OF_RANGE", "INDEX_BEYOND_LOG") as refusal:
        next(iter(tail.TailEvents(pb.TailEventsRequest(from_index=size + 10), timeout=20)))
    assert int(refusal.metadata["log_size"]) >= size


def test_fifty_tails_at_once(tail, send):
    size = send(1)
    calls = [tail.TailEvents(pb.TailEventsRequest(from_index=size), timeout=30) for _ in range(50)]
    readers = [iter(call) for call in calls]
    assert all(next(reader).next_index == size for reader in readers)
    after = send(3)
    for reader in readers:
        seen = 0
        while seen < 3:
            seen += len(next(reader).events)
    for call in calls:
        call.cancel()
    assert after == size + 3


def test_watching_a_project(watch, people, send, bind):
    project = f"projects/w-{uuid.uuid4().hex[:8]}"
    bind(project, "user:auditor", RoleBinding.ROLE_AUDITOR)
    send(2, project=project)
    send(1, project="projects/other")
    send(1, project=project, event_type="catalog.model.created")
    request = event_stream_pb2.WatchProjectEventsRequest(parent=project)
    call = watch.WatchProjectEvents(request, metadata=people.as_("auditor"), timeout=20)
    found = []
    thread = threading.Thread(target=lambda: found.extend(read(call, 4)[0]))
    thread.start()
    send(1, project=project)
    thread.join(20)
    assert len(found) == 4 and {e.project for e in found} == {project}
    assert [e.index for e in found] == sorted(e.index for e in found)
    request.filter.CopyFrom(event_pb2.EventFilter(types=["catalog.model.created"]))
    (only,), _ = read(watch.WatchProjectEvents(request, metadata=people.as_("auditor"), timeout=20), 1)
    assert only.type == "catalog.model.created" and only.payload


def test_who_may_watch_and_tail(process, pki, watch, people):
    request = event_stream_pb2.WatchProjectEventsRequest(parent="projects/p")
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        next(iter(watch.WatchProjectEvents(request, metadata=people.as_("alice"), timeout=20)))
    with refused("UNAUTHENTICATED", "TOKEN_MISSING"):
        next(iter(watch.WatchProjectEvents(request, timeout=20)))
    for peer in ("gateway", "service/policy"):
        with pki.dial(process, "aio", peer) as channel:
            with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
                stub = rpc.EventTailServiceStub(channel)
                next(iter(stub.TailEvents(pb.TailEventsRequest(), metadata=people.root, timeout=20)))


def test_bad_requests(watch, tail, people):
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID"):
        next(iter(tail.TailEvents(pb.TailEventsRequest(from_index=-1), timeout=20)))
    for bad in (
        event_stream_pb2.WatchProjectEventsRequest(parent="p"),
        event_stream_pb2.WatchProjectEventsRequest(parent="projects/p", from_index=-1),
    ):
        with refused("INVALID_ARGUMENT", "REQUEST_INVALID"):
            next(iter(watch.WatchProjectEvents(bad, metadata=people.root, timeout=20)))


def test_a_second_replica_is_followed_too_and_a_drain_ends_streams(database, pki, people, policy, tail, send):
    """What one replica writes, the streams of another tell; and a process that ends does not wait for its streams."""
    other = build(
        Settings(
            **common("audit", database, pki, people),
            stream_listen="127.0.0.1:0",
            policy_target=f"127.0.0.1:{policy.port('sync')}",
        )
    )
    other.start()
    try:
        with pki.dial(other, "aio", "service/lineage") as channel:
            size = send(1)
            call = rpc.EventTailServiceStub(channel).TailEvents(pb.TailEventsRequest(from_index=size), timeout=20)
            answers = iter(call)
            assert next(answers).next_index == size
            size = send(1)
            assert next(answers).next_index == size
            stopper = threading.Thread(target=other.stop)
            stopper.start()
            with pytest.raises((StopIteration, grpc.RpcError)):
                while True:
                    next(answers)
            stopper.join(5)
            assert not stopper.is_alive(), "streams held the process"
    finally:
        other.stop()
