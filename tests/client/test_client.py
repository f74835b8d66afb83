"""Calls, retries, transfers: against a real gRPC server over TLS that fails on purpose."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.api import httpbody_pb2
from google.rpc import error_details_pb2, status_pb2

from animus.catalog.v1 import blob_pb2, blob_pb2_grpc, project_pb2, project_pb2_grpc
from animus.orchestrator.v1 import run_pb2, run_stream_pb2, run_stream_pb2_grpc
from animus_client import Client, Config, FileToken, NotConfigured, StaticToken
from animus_client.blobs import SMALL_BYTES, TOGETHER, TRANSFER_ATTEMPTS, Source
from animus_client.errors import AlreadyExists, ClientError, PermissionDenied, Unauthenticated, Unavailable
from animus_client.runs import FOLLOW_ATTEMPTS, to_value
from animus_kit import pki

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def refuse(context, code, reason: str, domain: str = "test") -> None:
    status = status_pb2.Status(code=code.value[0], message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    status.details.add().Pack(
        error_details_pb2.BadRequest(field_violations=[{"field": "f", "reason": "R", "description": "d"}])
    )
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(code, "no")


@dataclass
class Tokens:
    """A source whose token ends `ends` times, in the middle of a stream."""

    ends: int = 0
    number: int = 0
    renewed: bool = True

    def token(self) -> str:
        return f"token-{self.number}"

    def end(self, context) -> None:
        if self.ends:
            self.ends -= 1
            self.number += self.renewed
            refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


@dataclass
class Catalog(project_pb2_grpc.ProjectServiceServicer, blob_pb2_grpc.BlobServiceServicer):
    """failures: how many calls of a kind fail before one is good."""

    failures: int = 0
    request_ids: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    owned: dict[str, bytes] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    uploads: list[tuple[str, int]] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    cut_at: int = 0
    damage: bool = False
    source: Tokens = field(default_factory=Tokens)

    def CreateProject(self, request, context):
        self.request_ids.append(request.request_id)
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        if request.project_id == "taken":
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "PROJECT_EXISTS")
        if request.project_id == "denied":
            refuse(context, grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
        if self.failures:
            self.failures -= 1
            context.abort(UNAVAILABLE, "later")
        return project_pb2.Project(name=f"projects/{request.project_id}")

    def ListProjects(self, request, context):
        start = int(request.page_token or 0)
        names = [f"projects/p{n}" for n in range(5)][start : start + 2]
        token = str(start + 2) if start + 2 < 5 else ""
        return project_pb2.ListProjectsResponse(projects=[{"name": n} for n in names], next_page_token=token)

    def ListMissingBlobs(self, request, context):
        return blob_pb2.ListMissingBlobsResponse(missing_digests=[d for d in request.digests if d not in self.owned])

    def GetUpload(self, request, context):
        if request.digest not in self.kept:
            refuse(context, grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
        return blob_pb2.Upload(digest=request.digest, offset_bytes=len(self.kept[request.digest]))

    def UploadBlob(self, request_iterator, context):
        first = next(request_iterator)
        data = self.kept.get(first.digest, b"")[: first.offset_bytes] + first.body.data
        self.uploads.append((first.digest, first.offset_bytes))
        for message in request_iterator:
            data += message.body.data
            if len(data) > self.cut_at and self.source.ends:
                self.kept[first.digest] = data[: self.cut_at]
                self.source.end(context)
            if self.failures and len(data) > self.cut_at:
                self.failures -= 1
                self.kept[first.digest] = data[: self.cut_at]
                context.abort(UNAVAILABLE, "cut")
        if "sha256:" + hashlib.sha256(data).hexdigest() != first.digest:
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        self.owned[first.digest] = data
        return blob_pb2.Blob(digest=first.digest, size_bytes=len(data))

    def UploadSmallBlobs(self, request, context):
        if self.failures:
            self.failures -= 1
            context.abort(UNAVAILABLE, "later")
        for blob in request.blobs:
            if "sha256:" + hashlib.sha256(blob.data).hexdigest() != blob.digest:
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        self.together.append(len(request.blobs))
        self.owned.update((blob.digest, blob.data) for blob in request.blobs)
        return blob_pb2.UploadSmallBlobsResponse()

    def DownloadBlob(self, request, context):
        data = self.owned[request.digest]
        if self.damage:
            data = data[:-1] + b"?"
        for start in range(request.offset_bytes, len(data), 1000):
            if start > request.offset_bytes:
                self.source.end(context)
            if self.failures and start > request.offset_bytes + 2000:
                self.failures -= 1
                context.abort(UNAVAILABLE, "cut")
            yield httpbody_pb2.HttpBody(data=data[start : start + 1000])


@dataclass
class Streams(run_stream_pb2_grpc.RunStreamServiceServicer):
    log: bytes = b""
    cuts: int = 0
    watches: int = 0
    source: Tokens = field(default_factory=Tokens)

    def WatchRun(self, request, context):
        self.watches += 1
        self.source.end(context)
        yield run_stream_pb2.WatchRunResponse(run=run_pb2.Run(state=run_pb2.Run.STATE_RUNNING))
        if self.cuts:
            self.cuts -= 1
            return
        yield run_stream_pb2.WatchRunResponse(run=run_pb2.Run(state=run_pb2.Run.STATE_SUCCEEDED), final=True)

    def ReadLogs(self, request, context):
        for start in range(request.offset_bytes, len(self.log), 10):
            if start > request.offset_bytes:
                self.source.end(context)
            if self.cuts and start >= request.offset_bytes + 30:
                self.cuts -= 1
                context.abort(UNAVAILABLE, "cut")
            yield run_stream_pb2.ReadLogsResponse(offset_bytes=start, data=self.log[start : start + 10])
        yield run_stream_pb2.ReadLogsResponse(final=True)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def tokens(catalog: Catalog, streams: Streams) -> Tokens:
    catalog.source = streams.source = Tokens()
    return catalog.source


@pytest.fixture
def client(catalog: Catalog, streams: Streams, tokens: Tokens, tmp_path: Path):
    now = datetime.now(UTC)
    ca = pki.new_ca("test", now)
    leaf = pki.issue_service(ca, "gateway", ("localhost",), "t", now, addresses=("127.0.0.1",))
    (tmp_path / "ca.crt").write_bytes(ca.certificate_pem)
    server = grpc.server(ThreadPoolExecutor(8))
    project_pb2_grpc.add_ProjectServiceServicer_to_server(catalog, server)
    blob_pb2_grpc.add_BlobServiceServicer_to_server(catalog, server)
    run_stream_pb2_grpc.add_RunStreamServiceServicer_to_server(streams, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(leaf.key_pem, leaf.certificate_pem)]))
    server.start()
    config = Config(f"https://localhost:{port}", tokens, tmp_path / "ca.crt")
    with Client(config, sleep=lambda seconds: None) as made:
        yield made
    server.stop(None)


def create(client: Client, id: str):
    return client.call(client.projects_api.CreateProject, project_pb2.CreateProjectRequest(project_id=id))


def test_a_retried_mutation_is_one_request(client: Client, catalog: Catalog) -> None:
    catalog.failures = 3
    assert create(client, "a").name == "projects/a"
    assert len(catalog.request_ids) == 4 and len(set(catalog.request_ids)) == 1 and catalog.request_ids[0]
    assert set(catalog.tokens) == {"Bearer token-0"}


def test_errors_are_typed_and_keep_their_details(client: Client, catalog: Catalog) -> None:
    with pytest.raises(AlreadyExists) as caught:
        create(client, "taken")
    assert caught.value.reason == "PROJECT_EXISTS" and caught.value.violations[0].field == "f"
    with pytest.raises(PermissionDenied):
        create(client, "denied")
    assert len(catalog.request_ids) == 2, "what is not transient is not tried again"


def test_a_service_that_stays_away_is_told(client: Client, catalog: Catalog) -> None:
    catalog.failures = 100
    with pytest.raises(Unavailable):
        create(client, "a")


def test_pages_are_followed(client: Client) -> None:
    request = project_pb2.ListProjectsRequest()
    every = [p.name for p in client.pages(client.projects_api.ListProjects, request, "projects")]
    assert every == [f"projects/p{n}" for n in range(5)]
    assert len(list(client.pages(client.projects_api.ListProjects, request, "projects", limit=3))) == 3


def test_uploads_skip_what_is_there_and_resume_what_was_cut(client: Client, catalog: Catalog) -> None:
    there, new = Source.of_bytes(b"there"), Source.of_bytes(bytes(range(256)) * 8000)
    catalog.owned[there.digest] = b"there"
    catalog.failures, catalog.cut_at = 2, 700_000
    seen: list[tuple[int, int]] = []
    done = client.blobs.upload("projects/a", [there, new], lambda *at: seen.append(at))
    assert (done.sent, done.skipped) == (1, 1)
    assert catalog.uploads == [(new.digest, 0), (new.digest, 700_000), (new.digest, 700_000)]
    assert hashlib.sha256(catalog.owned[new.digest]).hexdigest() == new.digest[7:]
    assert seen[-1] == (new.size, new.size)


def test_an_empty_blob(client: Client, catalog: Catalog) -> None:
    empty = Source.of_bytes(b"")
    client.blobs.upload("projects/a", [empty])
    assert catalog.owned[empty.digest] == b""


def test_small_blobs_travel_together_as_many_as_one_call_takes(client: Client, catalog: Catalog) -> None:
    many = [Source.of_bytes(b"%d" % number) for number in range(TOGETHER + 500)]
    heavy = [Source.of_bytes(bytes([number]) * SMALL_BYTES) for number in range(10)]
    catalog.failures = 1
    seen: list[tuple[int, int]] = []
    done = client.blobs.upload("projects/a", [*many, *heavy], lambda *at: seen.append(at))
    assert done.sent == TOGETHER + 510 and catalog.owned.keys() == {one.digest for one in (*many, *heavy)}
    assert sum(catalog.together) == done.sent and max(catalog.together) <= TOGETHER and not catalog.uploads
    assert len(catalog.together) == 3
    assert seen[-1] == (done.sent_bytes, done.sent_bytes)


@pytest.mark.parametrize("size", [6, SMALL_BYTES + 6])
@pytest.mark.parametrize("after", [b"after!", b"longer than it was", b"short"])
def test_a_file_that_changed_is_told(client: Client, tmp_path: Path, size: int, after: bytes) -> None:
    path, before = tmp_path / "file", b"before".ljust(size)
    path.write_bytes(before)
    source = Source.of_file(path, "sha256:" + hashlib.sha256(before).hexdigest(), size)
    path.write_bytes(after.ljust(size) if after == b"after!" else before[6:] + after)
    with pytest.raises(ClientError) as caught:
        client.blobs.upload("projects/a", [source])
    assert caught.value.reason == "CONTENT_CHANGED"


def test_downloads_resume_and_are_checked(client: Client, catalog: Catalog, tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    catalog.owned[digest] = data
    catalog.failures = 4
    client.blobs.download("projects/a", digest, tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == data
    catalog.damage = True
    with pytest.raises(ClientError) as caught:
        client.blobs.download("projects/a", digest, tmp_path / "other")
    assert caught.value.reason == "CONTENT_MISMATCH"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["ca.crt"]


def test_a_watch_without_its_final_message_goes_on(client: Client, streams: Streams) -> None:
    streams.cuts = 2
    messages = list(client.runs.watch("projects/a/runs/r"))
    assert messages[-1].final and streams.watches == 3


def test_logs_go_on_where_they_were_cut(client: Client, streams: Streams) -> None:
    streams.log, streams.cuts = bytes(range(200)), 3
    pieces = [m.data for m in client.runs.logs("projects/a/runs/r/steps/s/attempts/1", follow=True)]
    assert b"".join(pieces) == streams.log


def test_what_is_cut_with_its_token_goes_on_with_the_next_one(
    client: Client, catalog: Catalog, streams: Streams, tokens: Tokens
) -> None:
    """More often than a failure would be tried again: a training may be silent for hours."""
    tokens.ends = FOLLOW_ATTEMPTS + 1
    assert list(client.runs.watch("projects/a/runs/r"))[-1].final and tokens.ends == 0
    streams.log, tokens.ends = bytes(range(200)), 3
    pieces = [m.data for m in client.runs.logs("projects/a/runs/r/steps/s/attempts/1", follow=True)]
    assert b"".join(pieces) == streams.log and tokens.ends == 0
    blob = Source.of_bytes(bytes(range(256)) * 8000)
    catalog.cut_at, tokens.ends = 700_000, TRANSFER_ATTEMPTS + 1
    client.blobs.upload("projects/a", [blob])
    assert catalog.uploads[-1] == (blob.digest, 700_000) and tokens.ends == 0
    tokens.ends = 3
    assert client.blobs.read_all("projects/a", blob.digest) == catalog.owned[blob.digest] and tokens.ends == 0


def test_without_another_token_the_end_of_one_is_told(client: Client, streams: Streams, tokens: Tokens) -> None:
    tokens.ends, tokens.renewed = 1, False
    with pytest.raises(Unauthenticated):
        list(client.runs.watch("projects/a/runs/r"))
    assert streams.watches == 1


def test_values_are_typed() -> None:
    assert to_value(True).WhichOneof("kind") == "bool_value"
    assert to_value(2**53 + 1).int_value == 2**53 + 1
    assert to_value(0.5).double_value == 0.5
    assert to_value("7").string_value == "7"
    with pytest.raises(ClientError):
        to_value([1])


def test_where_the_gateway_is(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "ANIMUS_DIR": str(tmp_path / "none")}
    with pytest.raises(NotConfigured):
        Config.discover(home)
    named = Config.discover({"ANIMUS_ENDPOINT": "https://h:1", "ANIMUS_TOKEN": "t"})
    assert (named.target, named.tokens.token()) == ("h:1", "t")
    with pytest.raises(ClientError):
        Config.discover({"ANIMUS_ENDPOINT": "https://h:1"})
    with pytest.raises(ClientError) as caught:
        assert Config("http://h:1", StaticToken("t")).target
    assert caught.value.reason == "ENDPOINT_INVALID"
    (tmp_path / ".config" / "animus").mkdir(parents=True)
    (tmp_path / "token").write_text("kept\n")
    content = {"endpoint": "https://h:2", "token_file": str(tmp_path / "token"), "ca": ""}
    (tmp_path / ".config" / "animus" / "config.json").write_text(json.dumps(content))
    found = Config.discover({"HOME": str(tmp_path)})
    assert isinstance(found.tokens, FileToken) and found.tokens.token() == "kept"


def test_every_public_service_has_a_stub(client: Client) -> None:
    from google.api import annotations_pb2
    from google.protobuf import descriptor_pb2

    from animus_client.client import _STUBS

    found = descriptor_pb2.FileDescriptorSet()
    found.ParseFromString((importlib.resources.files("animus") / "descriptors.binpb").read_bytes())
    public = {
        service.name
        for file in found.file
        for service in file.service
        if any(method.options.HasExtension(annotations_pb2.http) for method in service.method)
    }
    assert {service for _, _, service in _STUBS.values()} == public
    for name in _STUBS:
        assert getattr(client, name)
