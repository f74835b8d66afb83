"""How many calls a listener holds at once, and whose: what is too much is refused, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from animus.audit.v1 import event_stream_pb2, event_stream_pb2_grpc
from animus.catalog.v1 import blob_pb2_grpc
from animus_kit.server import interceptors
from tests.kit.test_server import ALICE, Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("places"))
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
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            stack.process.drain._set()
            assert [next(one).next_index for one in open_streams] == [2, 2]
    finally:
        stack.process.stop()


def test_a_stream_that_says_nothing_loses_its_place(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "FIRST_MESSAGE_SECONDS", 0.2)
    silent = threading.Event()

    def nothing() -> Any:
        silent.wait(20)
        yield from ()

    with stack.channel(listener="aio") as channel:
        stub = blob_pb2_grpc.BlobServiceStub(channel)
        with pytest.raises(grpc.RpcError) as ended:
            stub.UploadBlob(nothing(), metadata=ALICE, timeout=20)
        silent.set()
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the first message" in ended.value.details()
