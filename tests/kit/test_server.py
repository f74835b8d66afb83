"""Every call passes the door: peer, token, rules, permission, errors, on sync and aio listeners alike."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animus.audit.v1 import event_stream_pb2, event_stream_pb2_grpc
from animus.catalog.v1 import blob_pb2, blob_pb2_grpc
from animus.policy.v1 import role_binding_pb2, role_binding_pb2_grpc
from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.errors import NotFound
from animus_kit.server.authz import denied, in_project, internal, public
from animus_kit.server.context import current
from animus_kit.server.door import Door
from animus_kit.server.serve import Process
from animus_kit.server.token import CLOCK_TOLERANCE_SECONDS, Claims, TokenInvalid
from animus_kit.status import DETAILS_KEY
from animus_kit.tls import TlsFiles

DOMAIN = "animus.test"
NOW = datetime.now(UTC)
BINDINGS = "/animus.policy.v1.RoleBindingService/"
BLOBS = "/animus.catalog.v1.BlobService/"


class Verifier:
    """Takes the token for the subject; "bad" is refused, and "late" has just ended."""

    threads: set[str] = set()

    def verify(self, token: str) -> Claims:
        self.threads.add(threading.current_thread().name)
        if token == "bad":
            raise TokenInvalid("not accepted")
        if token == "late":
            return Claims("alice", ("team",), NOW, NOW - timedelta(seconds=CLOCK_TOLERANCE_SECONDS))
        return Claims(token, ("team",), NOW, NOW + timedelta(minutes=15))


class OnlyAlice:
    """Allows alice everything, until `refuse` says what she is told: the first of it each time."""

    def __init__(self) -> None:
        self.refuse: list[Exception] = []
        self.asked = threading.Semaphore(0)
        self.threads: set[str] = set()

    def check(self, ctx: Any, permission: str, project: str | None) -> None:
        self.threads.add(threading.current_thread().name)
        self.asked.release()
        if ctx.subject != "alice":
            raise denied(permission, project)
        if self.refuse:
            raise self.refuse.pop(0)


class Denials:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None]] = []

    def record(self, ctx: Any, permission: str, project: str | None) -> None:
        self.seen.append((ctx.subject, permission, project))


class Bindings(role_binding_pb2_grpc.RoleBindingServiceServicer):
    def __init__(self) -> None:
        self.hold = threading.Event()
        self.held = threading.Semaphore(0)

    def GetRoleBinding(self, request: Any, context: Any) -> Any:
        name = request.name.rsplit("/", 1)[1]
        if name == "missing":
            raise NotFound("no such binding", resource=("animus.dev/RoleBinding", request.name))
        if name == "broken":
            raise ValueError("a secret detail")
        if name == "held":
            self.held.release()
            self.hold.wait(20)
        ctx = current()
        return role_binding_pb2.RoleBinding(name=f"{ctx.subject} {ctx.actor} {ctx.request_id}")

    def ListRoleBindings(self, request: Any, context: Any) -> Any:
        return role_binding_pb2.ListRoleBindingsResponse(next_page_token=current().peer.label)


class Blobs(blob_pb2_grpc.BlobServiceServicer):
    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)

    async def UploadBlob(self, requests: Any, context: Any) -> Any:
        total = 0
        async for request in requests:
            self.arrived.release()
            total += len(request.body.data)
        return blob_pb2.Blob(digest=current().subject, size_bytes=total)

    async def GetUpload(self, request: Any, context: Any) -> Any:
        raise NotFound("no upload")

    async def DownloadArtifact(self, request: Any, context: Any) -> Any:
        if request.path == "missing":
            raise NotFound("no file")
        for _ in itertools.count() if request.path == "endless" else range(3):
            yield blob_pb2.google_dot_api_dot_httpbody__pb2.HttpBody(data=b"x")
        if request.path == "breaks":
            raise RuntimeError("a secret detail")


class Stream(event_stream_pb2_grpc.EventStreamServiceServicer):
    def __init__(self, drain: Any) -> None:
        self._drain = drain

    async def WatchProjectEvents(self, request: Any, context: Any) -> Any:
        yield event_stream_pb2.WatchProjectEventsResponse(next_index=1)
        await self._drain.wait()
        yield event_stream_pb2.WatchProjectEventsResponse(next_index=2)


ROWS = {
    BINDINGS + "GetRoleBinding": public("policy.roleBindings.get", in_project("name")),
    BINDINGS + "ListRoleBindings": internal("orchestrator"),
    BINDINGS + "CreateRoleBinding": public("policy.roleBindings.create", in_project("parent")),
    BINDINGS + "DeleteRoleBinding": public("policy.roleBindings.delete", in_project("name")),
    "/animus.audit.v1.EventStreamService/WatchProjectEvents": public("audit.events.list", in_project("parent")),
    **{
        BLOBS + name: public("catalog.blobs.read", in_project("parent"))
        for name in (
            "UploadBlob",
            "UploadSmallBlobs",
            "GetUpload",
            "ListMissingBlobs",
            "DownloadBlob",
            "DownloadDatasetVersion",
        )
    },
    BLOBS + "DownloadArtifact": public("catalog.artifacts.read", in_project("name")),
}


class Stack:
    def __init__(self, folder: Path, rows: Any = None, streams: int = 100) -> None:
        self.folder, self.ca = folder, pki.new_ca("services", NOW)
        self.denials, self.bindings, self.blobs, self.access = Denials(), Bindings(), Blobs(), OnlyAlice()
        door = Door("policy", DOMAIN, rows or ROWS, Verifier(), self.access, self.denials, b"key")  # type: ignore[arg-type]
        self.process = Process("policy", grace=1)
        tls = self.files("service/policy")
        self.process.sync(
            "127.0.0.1:0",
            tls,
            door,
            lambda server: role_binding_pb2_grpc.add_RoleBindingServiceServicer_to_server(self.bindings, server),
            workers=2,
        )
        self.process.aio(
            "127.0.0.1:0",
            tls,
            door,
            lambda server: blob_pb2_grpc.add_BlobServiceServicer_to_server(self.blobs, server),
            lambda server: event_stream_pb2_grpc.add_EventStreamServiceServicer_to_server(
                Stream(self.process.drain), server
            ),
            streams=streams,
        )

    def files(self, path: str) -> TlsFiles:
        name = path.rpartition("/")[2]
        leaf = pki.issue_service(self.ca, path, (f"{name}.{DOMAIN}",), DOMAIN, NOW)
        folder = self.folder / name
        pki.write_public(folder / "crt", leaf.certificate_pem)
        pki.write_private(folder / "key", leaf.key_pem)
        pki.write_public(folder / "ca", self.ca.certificate_pem)
        return TlsFiles(folder / "crt", folder / "key", folder / "ca")

    def channel(self, path: str = "gateway", listener: str = "sync") -> grpc.Channel:
        target = f"127.0.0.1:{self.process.port(listener)}"
        channel = dial(target, "policy", self.files(path), DOMAIN, options=[("grpc.use_local_subchannel_pool", 1)])
        # A machine that is busy may take longer for the handshake than a call waits for it.
        grpc.channel_ready_future(channel).result(20)
        return channel


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    stack = Stack(tmp_path_factory.mktemp("server"))
    stack.process.start()
    yield stack
    stack.process.stop()


def get(stack: Stack, name: str, token: str | None = "alice", path: str = "gateway", **metadata: str) -> Any:
    headers = [*metadata.items(), *([("authorization", f"Bearer {token}")] if token is not None else [])]
    with stack.channel(path) as channel:
        stub = role_binding_pb2_grpc.RoleBindingServiceStub(channel)
        request = role_binding_pb2.GetRoleBindingRequest(name=name)
        return stub.GetRoleBinding(request, metadata=headers, timeout=10)


def failure(error: grpc.RpcError) -> tuple[str, str, list[str]]:
    """(code, reason, types of the details)."""
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing[DETAILS_KEY])
    infos = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            infos.append(info)
    assert len(infos) == 1, "exactly one ErrorInfo"
    assert infos[0].domain == "policy.animus"
    return error.code().name, infos[0].reason, [detail.TypeName().rpartition(".")[2] for detail in status.details]


NAME = "projects/p/roleBindings/{}"


def test_a_person_is_known_by_token_and_named_opaquely(stack: Stack) -> None:
    subject, actor, request_id = get(stack, NAME.format("x"), **{"x-request-id": "req-1"}).name.split()
    assert (subject, request_id) == ("alice", "req-1")
    assert actor.startswith("a-") and "alice" not in actor


@pytest.mark.parametrize(
    ("name", "token", "path", "code", "reason"),
    [
        (NAME.format("x"), None, "gateway", "UNAUTHENTICATED", "TOKEN_MISSING"),
        (NAME.format("x"), "bad", "gateway", "UNAUTHENTICATED", "TOKEN_INVALID"),
        (NAME.format("x"), "bob", "gateway", "PERMISSION_DENIED", "PERMISSION_DENIED"),
        (NAME.format("x"), "alice", "service/catalog", "PERMISSION_DENIED", "PEER_NOT_ALLOWED"),
        (NAME.format("x"), "alice", "robot/r2", "UNAUTHENTICATED", "PEER_UNKNOWN"),
        (NAME.format("missing"), "alice", "gateway", "NOT_FOUND", "NOT_FOUND"),
        (NAME.format("broken"), "alice", "gateway", "INTERNAL", "INTERNAL"),
        ("projects/p", "alice", "gateway", "INVALID_ARGUMENT", "REQUEST_INVALID"),
        ("", "alice", "gateway", "INVALID_ARGUMENT", "REQUEST_INVALID"),
    ],
)
def test_refusals_have_one_reason_each(
    stack: Stack, name: str, token: str | None, path: str, code: str, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stack, name, token, path)
    assert failure(caught.value)[:2] == (code, reason)
    assert "secret" not in caught.value.details()


def test_details_say_what_and_where(stack: Stack) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(stack, NAME.format("missing"))
    assert "ResourceInfo" in failure(caught.value)[2]
    with pytest.raises(grpc.RpcError) as caught:
        get(stack, "projects/P/roleBindings/x")
    assert "BadRequest" in failure(caught.value)[2]
    assert "RequestInfo" in failure(caught.value)[2]


def test_damaged_requests_are_the_callers_fault(stack: Stack) -> None:
    with stack.channel() as channel:
        call = channel.unary_unary(BINDINGS + "GetRoleBinding")
        for data in (b"\x0a\x02\xff\xff", b"\xff\xff\xff", b"\x0a\x7f"):
            with pytest.raises(grpc.RpcError) as caught:
                call(data, metadata=[("authorization", "Bearer alice")], timeout=10)
            assert failure(caught.value)[:2] == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")


def test_a_denial_is_told_once_to_the_sink(stack: Stack) -> None:
    stack.denials.seen.clear()
    with pytest.raises(grpc.RpcError):
        get(stack, "projects/q/roleBindings/x", "mallory")
    assert stack.denials.seen == [("mallory", "policy.roleBindings.get", "projects/q")]


def test_services_act_under_their_own_identity_and_tokens_count_for_nothing(stack: Stack) -> None:
    with stack.channel("service/orchestrator") as channel:
        stub = role_binding_pb2_grpc.RoleBindingServiceStub(channel)
        request = role_binding_pb2.ListRoleBindingsRequest(parent="projects/p")
        answer = stub.ListRoleBindings(request, metadata=[("authorization", "Bearer alice")], timeout=10)
    assert answer.next_page_token == "service/orchestrator"


def test_health_answers_while_the_pool_is_full(stack: Stack) -> None:
    with stack.channel() as channel:
        stub = role_binding_pb2_grpc.RoleBindingServiceStub(channel)
        request = role_binding_pb2.GetRoleBindingRequest(name=NAME.format("held"))
        calls = [
            stub.GetRoleBinding.future(request, metadata=[("authorization", "Bearer alice")], timeout=20)
            for _ in range(2)
        ]
        try:
            for _ in calls:
                assert stack.bindings.held.acquire(timeout=10)
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        finally:
            stack.bindings.hold.set()
        assert all(call.result().name for call in calls)


ALICE = [("authorization", "Bearer alice")]
LATE = [("authorization", "Bearer late")]


def upload(stack: Stack, parent: str, token: str = "alice") -> Any:
    def messages() -> Any:
        yield blob_pb2.UploadBlobRequest(parent=parent)
        for _ in range(3):
            message = blob_pb2.UploadBlobRequest()
            message.body.data = b"12345"
            yield message

    with stack.channel(listener="aio") as channel:
        stub = blob_pb2_grpc.BlobServiceStub(channel)
        return stub.UploadBlob(messages(), metadata=[("authorization", f"Bearer {token}")], timeout=10)


def test_an_uploads_first_message_is_checked_and_all_reach_the_handler(stack: Stack) -> None:
    answer = upload(stack, "projects/p")
    assert (answer.digest, answer.size_bytes) == ("alice", 15)
    for parent, token, reason in (("projects/p", "bob", "PERMISSION_DENIED"), ("p", "alice", "REQUEST_INVALID")):
        with pytest.raises(grpc.RpcError) as caught:
            upload(stack, parent, token)
        assert failure(caught.value)[1] == reason


def test_no_stream_waits_while_anothers_token_is_checked(stack: Stack) -> None:
    """The issuer's keys may have to be fetched; the loop serves everybody."""
    upload(stack, "projects/p")
    assert Verifier.threads
    assert "aio" not in Verifier.threads


def test_streams_fail_before_and_after_their_first_message(stack: Stack) -> None:
    with stack.channel(listener="aio") as channel:
        stub = blob_pb2_grpc.BlobServiceStub(channel)

        def download(path: str) -> Any:
            request = blob_pb2.DownloadArtifactRequest(name="projects/p/artifacts/a", path=path)
            return stub.DownloadArtifact(request, metadata=ALICE, timeout=10)

        assert b"".join(part.data for part in download("")) == b"xxx"
        with pytest.raises(grpc.RpcError) as caught:
            next(download("missing"))
        assert failure(caught.value)[0] == "NOT_FOUND"
        parts = download("breaks")
        assert [next(parts).data for _ in range(3)] == [b"x"] * 3
        with pytest.raises(grpc.RpcError) as caught:
            next(parts)
        assert failure(caught.value)[0] == "INTERNAL"


def test_a_method_without_a_row_keeps_the_process_from_starting(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {name: row for name, row in ROWS.items() if not name.endswith("DeleteRoleBinding")})
    with pytest.raises(RuntimeError, match="DeleteRoleBinding"):
        stack.process.start()


def test_a_draining_process_lets_streams_end_by_themselves(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.process.start()
    with stack.channel(listener="aio") as channel:
        stub = event_stream_pb2_grpc.EventStreamServiceStub(channel)
        request = event_stream_pb2.WatchProjectEventsRequest(parent="projects/p")
        answers = stub.WatchProjectEvents(request, metadata=ALICE, timeout=20)
        assert next(answers).next_index == 1
        stopping = threading.Thread(target=stack.process.stop)
        stopping.start()
        assert [answer.next_index for answer in answers] == [2]
        stopping.join(10)
        assert not stopping.is_alive()


def test_the_clock_is_the_systems() -> None:
    assert SystemClock().now().tzinfo is UTC
