"""How many calls a listener holds at once, and whose: what is too much is refused, and the others go on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animus.audit.v1 import event_stream_pb2, event_stream_pb2_grpc
from animus.catalog.v1 import blob_pb2, blob_pb2_grpc
from animus.policy.v1 import role_binding_pb2, role_binding_pb2_grpc
from animus_kit import retry
from animus_kit.server import interceptors
from animus_kit.server.authz import from_agents
from tests.kit.test_server import ALICE, BLOBS, ROWS, Stack, failure


@pytest.fixture(params=["gateway", "agent/node-1"])
def who(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stack(who: str, tmp_path: Path) -> Iterator[Stack]:
    """Takes uploads from people, or from nodes."""
    rows = ROWS if who == "gateway" else {**ROWS, BLOBS + "UploadBlob": from_agents()}
    stack = Stack(tmp_path, rows)
    stack.process.start()
    yield stack
    stack.process.stop()


def test_a_stream_too_many_is_refused_and_those_before_it_go_on(tmp_path: Path) -> None:
    stack = Stack(tmp_path, streams=2)
    stack.process.start()
    try:
        with stack.channel(listener="aio") as channel:
            stub = event_stream_pb2_grpc.EventStreamServiceStub(channel)
            request = event_stream_pb2.WatchProjectEventsRequest(parent="projects/p")
            open_streams = [stub.WatchProjectEvents(request, metadata=ALICE, timeout=20) for _ in range(2)]
            assert [next(one).next_index for one in open_streams] == [1, 1]
            with pytest.raises(grpc.RpcError) as refused:
                next(stub.WatchProjectEvents(request, metadata=ALICE, timeout=20))
            code, _, details = failure(refused.value)
            assert code == "RESOURCE_EXHAUSTED" and "RetryInfo" in details
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            stack.process.drain._set()
            assert [next(one).next_index for one in open_streams] == [2, 2]
    finally:
        stack.process.stop()


@pytest.fixture
def over() -> Iterator[threading.Event]:
    over = threading.Event()
    yield over
    over.set()


def silence(over: threading.Event, *first: Any) -> Iterator[Any]:
    yield from first
    over.wait(20)


def upload(channel: grpc.Channel) -> Any:
    return blob_pb2_grpc.BlobServiceStub(channel).UploadBlob


def test_a_stream_that_says_nothing_loses_its_place(
    stack: Stack, who: str, over: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "FIRST_MESSAGE_SECONDS", 0.2)
    with stack.channel(who, "aio") as channel, pytest.raises(grpc.RpcError) as ended:
        upload(channel)(silence(over), metadata=ALICE, timeout=20)
    assert failure(ended.value)[0] == "DEADLINE_EXCEEDED"
    assert "the first message" in ended.value.details()


@pytest.mark.parametrize("who", ["agent/node-1"], indirect=True)
def test_a_node_takes_its_own_places_and_nobody_elses(
    stack: Stack, who: str, over: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "NODE_CALLS", 2)
    first = blob_pb2.UploadBlobRequest(parent="projects/p")
    with stack.channel(who, "aio") as one, stack.channel("agent/node-2", "aio") as other:
        held = [upload(one).future(silence(over, first), timeout=20) for _ in range(2)]
        for _ in held:
            assert stack.blobs.arrived.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as refused:
            upload(one)(iter([first]), timeout=10)
        code, reason, details = failure(refused.value)
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED") and "RetryInfo" in details
        assert upload(other)(iter([first]), timeout=10).size_bytes == 0
        over.set()
        assert [call.result(timeout=10).size_bytes for call in held] == [0, 0]
        assert upload(one)(iter([first]), timeout=10).size_bytes == 0


@pytest.mark.parametrize("who", ["gateway"], indirect=True)
def test_calls_beyond_twice_the_pool_are_refused_and_health_is_not(stack: Stack, who: str) -> None:
    request = role_binding_pb2.GetRoleBindingRequest(name="projects/p/roleBindings/held")
    with stack.channel(who) as channel:
        get = role_binding_pb2_grpc.RoleBindingServiceStub(channel).GetRoleBinding
        over: queue.Queue[Any] = queue.Queue()
        for _ in range(30):
            call = get.future(request, metadata=[*ALICE, ("x-request-id", "r")], timeout=20)
            call.add_done_callback(over.put)
        for _ in range(30 - (2 * 2 + 4)):
            code, reason, details = failure(over.get(timeout=10).exception())
            assert (code, reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
            assert {"RetryInfo", "RequestInfo"} <= set(details)
        assert over.empty()
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stack.bindings.hold.set()
        for _ in range(2 * 2 + 4):
            assert over.get(timeout=10).code() is grpc.StatusCode.OK
        # A place that was left can be taken again.
        retry.call(lambda: get(request, metadata=ALICE, timeout=10), tries=8, wait=time.sleep)
