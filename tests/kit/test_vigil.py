"""A stream ends with what it was admitted on: the token behind it, and the right to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from animus.audit.v1 import event_stream_pb2, event_stream_pb2_grpc
from animus.catalog.v1 import blob_pb2, blob_pb2_grpc
from animus_kit.server import vigil
from animus_kit.server.authz import PolicyUnavailable, denied
from tests.kit.test_server import ALICE, LATE, Stack, failure

WATCH = event_stream_pb2.WatchProjectEventsRequest(parent="projects/p")
LOST = denied("audit.events.list", "projects/p")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("vigil"))
    stack.process.start()
    yield stack
    stack.process.stop()


@pytest.fixture
def stack(running: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(vigil, "LOOK_SECONDS", 0.05)
    running.denials.seen.clear()
    running.access.refuse.clear()
    return running


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with stack.channel(listener="aio") as channel:
        yield channel


def watch(channel: grpc.Channel, metadata: Any = ALICE) -> Any:
    return event_stream_pb2_grpc.EventStreamServiceStub(channel).WatchProjectEvents(
        WATCH, metadata=metadata, timeout=20
    )


def end(answers: Any) -> tuple[str, str]:
    """(code, reason) with which a stream that has nothing to say ends."""
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    return failure(ended.value)[:2]


def test_a_stream_ends_with_its_token(channel: grpc.Channel) -> None:
    answers = watch(channel, LATE)
    assert next(answers).next_index == 1
    assert end(answers) == ("UNAUTHENTICATED", "TOKEN_INVALID")


def test_a_stream_ends_with_the_right_to_it_and_the_denial_is_told(stack: Stack, channel: grpc.Channel) -> None:
    answers = watch(channel)
    assert next(answers).next_index == 1
    stack.access.refuse[:] = [LOST]
    assert end(answers) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert stack.denials.seen == [("alice", "audit.events.list", "projects/p")]
    assert not any(name.startswith("aio") for name in stack.access.threads), "the loop serves everybody"


def test_policy_may_stay_away_for_one_look_and_not_for_two(stack: Stack, channel: grpc.Channel) -> None:
    away = PolicyUnavailable("away", retry_after=1.0)
    answers = watch(channel)
    assert next(answers).next_index == 1
    while stack.access.asked.acquire(blocking=False):
        pass
    stack.access.refuse[:] = [away]
    for _ in range(3):  # the third comes after one that did not end the stream
        assert stack.access.asked.acquire(timeout=10)
    assert not stack.access.refuse and answers.is_active()
    stack.access.refuse[:] = [away, away]
    assert end(answers) == ("UNAVAILABLE", "POLICY_UNAVAILABLE")


def test_nothing_is_sent_once_the_right_is_gone(stack: Stack, channel: grpc.Channel) -> None:
    """A reader that lets the stream stand still gets what was sent before, and then the denial."""
    request = blob_pb2.DownloadArtifactRequest(name="projects/p/artifacts/a", path="endless")
    parts = blob_pb2_grpc.BlobServiceStub(channel).DownloadArtifact(request, metadata=ALICE, timeout=20)
    next(parts)
    stack.access.refuse[:] = [LOST]
    with pytest.raises(grpc.RpcError) as ended:
        for _ in parts:
            pass
    assert failure(ended.value)[:2] == ("PERMISSION_DENIED", "PERMISSION_DENIED")


def test_an_upload_ends_with_its_token(channel: grpc.Channel) -> None:
    over = threading.Event()

    def messages() -> Any:
        yield blob_pb2.UploadBlobRequest(parent="projects/p")
        over.wait(20)

    with pytest.raises(grpc.RpcError) as ended:
        blob_pb2_grpc.BlobServiceStub(channel).UploadBlob(messages(), metadata=LATE, timeout=20)
    over.set()
    assert failure(ended.value)[:2] == ("UNAUTHENTICATED", "TOKEN_INVALID")
