"""BlobService: upload, resume, download."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody

from animus.catalog.v1 import blob_pb2 as pb
from animus.catalog.v1 import project_pb2
from animus_catalog.blobs.receive import KEEP_FROM_BYTES
from animus_catalog.blobs.staging import StagedFile
from tests.catalog.waiting import until
from tests.catalog.world import Refusal, digest_of, refused, upload_messages

NOBODYS = "sha256:" + "0" * 64


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_what_went_up_comes_down(world, size):
    content = os.urandom(size)
    digest = world.upload(content)
    assert digest == digest_of(content)
    assert world.download(digest) == content


def test_chunks_and_headers_of_a_download(world):
    content = os.urandom(200_000)
    digest = world.upload(content)
    call = world.blobs().DownloadBlob(pb.DownloadBlobRequest(parent=world.project, digest=digest))
    headers = dict(call.initial_metadata())
    assert (headers["animus-digest"], headers["animus-size"]) == (digest, "200000")
    bodies = list(call)
    assert max(len(body.data) for body in bodies) <= 65536
    assert [body.content_type for body in bodies][:2] == ["application/octet-stream", ""]


def test_a_download_goes_on_from_an_offset(world):
    content = os.urandom(150_000)
    digest = world.upload(content)
    assert world.download(digest, offset=149_990) == content[149_990:]
    assert world.download(digest, offset=150_000) == b""
    beyond = pb.DownloadBlobRequest(parent=world.project, digest=digest, offset_bytes=150_001)
    answer = refused(world.blobs().DownloadBlob, beyond)
    assert (answer.code, answer.reason) == ("OUT_OF_RANGE", "OFFSET_BEYOND_END")


def test_a_blob_that_is_owned_answers_without_the_rest(world):
    content = os.urandom(5_000_000)
    digest = world.upload(content)
    header = upload_messages(world.project, digest, content)[0]
    never = threading.Event()

    def messages():
        yield header
        never.wait(20)

    answer = world.blobs().UploadBlob(messages())
    never.set()
    assert answer == pb.Blob(digest=digest, size_bytes=5_000_000)


def test_wrong_content_is_refused_and_leaves_nothing(world):
    right, wrong = os.urandom(100_000), os.urandom(100_000)
    digest = digest_of(right)
    messages = upload_messages(world.project, digest, wrong)
    answer = refused(world.blobs().UploadBlob, iter(messages))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "DIGEST_MISMATCH")
    assert answer.metadata["computed"] == digest_of(wrong)
    request = pb.DownloadBlobRequest(parent=world.project, digest=digest)
    assert refused(world.blobs().DownloadBlob, request).reason == "BLOB_NOT_FOUND"
    assert world.upload(right) == digest and world.download(digest) == right


def test_more_than_announced_is_refused(world):
    content = os.urandom(2_000_000)
    messages = upload_messages(world.project, digest_of(content), content, size=1_500_000)
    assert refused(world.blobs().UploadBlob, iter(messages)).reason == "SIZE_MISMATCH"


def test_an_upload_says_what_it_is_in_its_first_message(world):
    blobs = world.blobs("root")
    assert refused(blobs.UploadBlob, iter([])).reason == "UPLOAD_HEADER_INVALID"
    content = b"content"
    messages = upload_messages(world.project, digest_of(content), content)
    messages[0].digest = ""
    answer = refused(world.blobs().UploadBlob, iter(messages))
    assert (answer.reason, answer.fields) == ("UPLOAD_HEADER_INVALID", ["digest"])
    messages = upload_messages(world.project, digest_of(content), content, piece=3)
    messages[1].digest = NOBODYS
    assert refused(world.blobs().UploadBlob, iter(messages)).reason == "UPLOAD_HEADER_INVALID"
    messages = upload_messages(world.project, digest_of(content), content, offset=0)
    messages[0].offset_bytes = 8
    assert refused(world.blobs().UploadBlob, iter(messages)).fields == ["offset_bytes"]


@pytest.mark.parametrize("digest", ["abc", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "sha256:../../etc/passwd"])
def test_a_bad_digest_is_located(world, digest):
    messages = upload_messages(world.project, digest, b"")
    answer = refused(world.blobs().UploadBlob, iter(messages))
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["digest"])
    request = pb.DownloadBlobRequest(parent=world.project, digest=digest)
    assert refused(world.blobs().DownloadBlob, request).fields == ["digest"]


def test_missing_blobs_are_told_in_order(world):
    have = world.upload(b"have")
    request = pb.ListMissingBlobsRequest(parent=world.project, digests=[NOBODYS, have, digest_of(b"x"), NOBODYS])
    assert world.blobs().ListMissingBlobs(request).missing_digests == [NOBODYS, digest_of(b"x")]


def test_nothing_goes_up_into_an_archived_project(world):
    world.projects().ArchiveProject(project_pb2.ArchiveProjectRequest(name=world.project))
    messages = upload_messages(world.project, digest_of(b"late"), b"late")
    assert refused(world.blobs().UploadBlob, iter(messages)).reason == "PROJECT_ARCHIVED"


def small(world, *contents, project=None, subject="alice", digests=None):
    blobs = [{"digest": d, "data": c} for c, d in zip(contents, digests or map(digest_of, contents), strict=True)]
    return world.blobs(subject).UploadSmallBlobs, pb.UploadSmallBlobsRequest(
        parent=project or world.project, blobs=blobs
    )


def test_small_blobs_go_up_together(world):
    contents = [b"", b"one", b"two", b"one", os.urandom(100_000)]
    world.upload(b"two")
    for _ in range(2):  # a repetition is harmless
        call, request = small(world, *contents)
        call(request)
    assert [world.download(digest_of(content)) for content in contents] == contents
    assert staged_files(world) == []
    other = world.new_project("bob")
    request = pb.ListMissingBlobsRequest(parent=other, digests=[digest_of(b"one")])
    assert world.blobs("bob").ListMissingBlobs(request).missing_digests == [digest_of(b"one")]


def test_small_blobs_are_all_taken_or_none(world):
    for digests in ([digest_of(b"right"), NOBODYS], [NOBODYS, digest_of(b"right")], [digest_of(b"right")] * 2):
        contents = [b"wrong" if digest == NOBODYS else b"right" for digest in digests]
        if len(set(digests)) == 1:
            contents[0] = b"wrong"
        answer = refused(*small(world, *contents, digests=digests))
        assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "DIGEST_MISMATCH")
    # Not in the store either, where it would be nobody's.
    right = digest_of(b"right").removeprefix("sha256:")
    assert not os.path.exists(f"{world.settings.blob_store.removeprefix('file://')}/sha256/{right[:2]}/{right}")
    request = pb.DownloadBlobRequest(parent=world.project, digest=digest_of(b"right"))
    assert refused(world.blobs().DownloadBlob, request).reason == "BLOB_NOT_FOUND"
    assert staged_files(world) == []


def test_what_small_blobs_are_refused_for(world):
    answer = refused(*small(world, b"x" * 300_000, b"y" * 300_000))
    assert (answer.reason, answer.fields) == ("UPLOAD_HEADER_INVALID", ["blobs"])
    assert refused(*small(world)).fields == ["blobs"]
    assert refused(*small(world, b"x", digests=["sha256:0"])).fields == ["blobs[0].digest"]
    assert refused(*small(world, b"x", project="projects/UP")).fields == ["parent"]
    assert refused(*small(world, b"x", subject="bob")).code == "PERMISSION_DENIED"
    world.projects().ArchiveProject(project_pb2.ArchiveProjectRequest(name=world.project))
    assert refused(*small(world, b"late")).reason == "PROJECT_ARCHIVED"


def kept(world, digest):
    return world.blobs().GetUpload(pb.GetUploadRequest(parent=world.project, digest=digest))


def test_an_upload_that_ended_early_goes_on(world):
    content = os.urandom(5_000_000)
    digest = digest_of(content)
    part = upload_messages(world.project, digest, content[:3_000_000], size=len(content))
    answer = refused(world.blobs().UploadBlob, iter(part))
    assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "UPLOAD_INCOMPLETE")
    upload = kept(world, digest)
    assert (upload.offset_bytes, upload.size_bytes) == (3_000_000, 5_000_000)
    wrong = upload_messages(world.project, digest, content, offset=2_000_000)
    answer = refused(world.blobs().UploadBlob, iter(wrong))
    assert (answer.reason, answer.metadata["offset_bytes"]) == ("UPLOAD_OFFSET_MISMATCH", "3000000")
    world.upload(content, offset=3_000_000)
    assert world.download(digest) == content
    request = pb.GetUploadRequest(parent=world.project, digest=digest)
    assert refused(world.blobs().GetUpload, request).reason == "UPLOAD_NOT_FOUND"
    assert staged_files(world) == []


def test_an_upload_whose_connection_broke_goes_on(world):
    content = os.urandom(4_000_000)
    digest = digest_of(content)
    messages = upload_messages(world.project, digest, content)
    sent = threading.Event()
    never = threading.Event()

    def half():
        yield from messages[:2]
        sent.set()
        never.wait(20)

    call = world.blobs()._stub.UploadBlob.future(half(), metadata=(("authorization", "Bearer alice"),), timeout=20)
    assert sent.wait(10)
    until(lambda: any(size >= 2 << 20 for size in staged_sizes(world)), "the server has two pieces")
    call.cancel()
    never.set()
    until(lambda: not isinstance(attempted(kept, world, digest), Refusal), "the upload is kept")
    offset = kept(world, digest).offset_bytes
    assert offset == 2 << 20
    world.upload(content, offset=offset)
    assert world.download(digest) == content


def test_a_little_is_not_kept(world):
    content = os.urandom(KEEP_FROM_BYTES)
    part = upload_messages(world.project, digest_of(content), content[:-1], size=len(content))
    assert refused(world.blobs().UploadBlob, iter(part)).reason == "UPLOAD_INCOMPLETE"
    request = pb.GetUploadRequest(parent=world.project, digest=digest_of(content))
    assert refused(world.blobs().GetUpload, request).reason == "UPLOAD_NOT_FOUND"
    resumed = upload_messages(world.project, digest_of(content), content, offset=100)
    assert refused(world.blobs().UploadBlob, iter(resumed)).reason == "UPLOAD_NOT_FOUND"


def test_a_full_disk_is_told_as_one(world, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StagedFile, "write", full)
    messages = upload_messages(world.project, digest_of(b"x"), b"x")
    for answer in (refused(world.blobs().UploadBlob, iter(messages)), refused(*small(world, b"x"))):
        assert (answer.code, answer.reason) == ("UNAVAILABLE", "DISK_FULL")
    assert staged_files(world) == []


def test_the_longer_of_two_interrupted_uploads_is_kept(world):
    content = os.urandom(4_000_000)
    digest = digest_of(content)
    for length in (2_000_000, 3_000_000, 1_500_000):
        part = upload_messages(world.project, digest, content[:length], size=len(content))
        refused(world.blobs().UploadBlob, iter(part))
    assert kept(world, digest).offset_bytes == 3_000_000
    assert len(staged_files(world)) == 1
    world.upload(content, offset=3_000_000)
    assert staged_files(world) == []


def test_a_resumed_upload_whose_kept_part_was_wrong_is_refused(world):
    content = os.urandom(4_000_000)
    digest = digest_of(content)
    part = upload_messages(world.project, digest, os.urandom(2_000_000), size=len(content))
    refused(world.blobs().UploadBlob, iter(part))
    resumed = upload_messages(world.project, digest, content, offset=2_000_000)
    assert refused(world.blobs().UploadBlob, iter(resumed)).reason == "DIGEST_MISMATCH"
    # Nobody shall go on with it once more.
    request = pb.GetUploadRequest(parent=world.project, digest=digest)
    assert refused(world.blobs().GetUpload, request).reason == "UPLOAD_NOT_FOUND"


def test_many_may_upload_the_same_at_once(world):
    content = os.urandom(2_500_000)
    projects = [world.project, *(world.new_project("alice") for _ in range(3))]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda project: world.upload(content, project), projects * 3))
    assert digests == {digest_of(content)}
    for project in projects:
        assert world.download(digest_of(content), project) == content
    with world.engine.connect() as conn:
        query = sa.text("SELECT count(*) FROM project_blobs WHERE digest = :d")
        assert conn.scalar(query, {"d": digest_of(content)}) == 4


def test_the_stored_blob_cannot_be_written_through_its_staging_file(world):
    digest = world.upload(b"once and for all")
    path = f"{world.settings.blob_store.removeprefix('file://')}/sha256/{digest[7:9]}/{digest[7:]}"
    assert os.stat(path).st_nlink == 1


def test_a_lost_blob_is_an_error_before_the_first_byte(world):
    digest = world.upload(b"soon gone")
    os.unlink(f"{world.settings.blob_store.removeprefix('file://')}/sha256/{digest[7:9]}/{digest[7:]}")
    request = pb.DownloadBlobRequest(parent=world.project, digest=digest)
    answer = refused(world.blobs().DownloadBlob, request)
    assert (answer.code, answer.reason) == ("INTERNAL", "BLOB_LOST")


# A project and another project's blobs.


def test_a_stolen_digest_reads_like_an_unknown_one(world):
    secret = world.upload(b"the other project's secret")
    other = world.new_project("bob")
    blobs = world.blobs("bob")

    def pair(make, call):
        stolen, unknown = refused(call, make(secret)), refused(call, make(NOBODYS))
        assert stolen.shape(secret) == unknown.shape(NOBODYS)
        return stolen

    download = pair(lambda d: pb.DownloadBlobRequest(parent=other, digest=d), blobs.DownloadBlob)
    assert (download.code, download.reason) == ("NOT_FOUND", "BLOB_NOT_FOUND")
    pair(lambda d: pb.GetUploadRequest(parent=other, digest=d), blobs.GetUpload)
    request = pb.ListMissingBlobsRequest(parent=other, digests=[secret, NOBODYS])
    assert blobs.ListMissingBlobs(request).missing_digests == [secret, NOBODYS]


def test_a_stolen_digest_does_not_spare_the_upload(world):
    content = os.urandom(2_000_000)
    stolen = world.upload(content)
    other = world.new_project("bob")

    def attempt(digest):
        guess = os.urandom(2_000_000)
        messages = upload_messages(other, digest, guess)
        consumed = []

        def counted():
            for message in messages:
                consumed.append(len(message.body.data))
                yield message

        answer = refused(world.blobs("bob").UploadBlob, counted())
        return answer.shape(digest, digest_of(guess)), sum(consumed)

    assert attempt(stolen) == attempt(NOBODYS)
    assert (
        refused(world.blobs("bob").DownloadBlob, pb.DownloadBlobRequest(parent=other, digest=stolen)).reason
        == "BLOB_NOT_FOUND"
    )
    assert world.upload(content, other, "bob") == stolen
    assert world.download(stolen, other, "bob") == content


def test_only_members_reach_blobs(world):
    digest = world.upload(b"ours")
    answer = refused(world.blobs("bob").DownloadBlob, pb.DownloadBlobRequest(parent=world.project, digest=digest))
    assert answer.code == "PERMISSION_DENIED"
    messages = upload_messages(world.project, digest_of(b"x"), b"x")
    assert refused(world.blobs("bob").UploadBlob, iter(messages)).code == "PERMISSION_DENIED"


def test_services_and_agents_are_not_people(world, pki):
    from animus.catalog.v1 import blob_pb2_grpc

    channel = pki.dial(world.process, "stream", "service/orchestrator")
    stub = blob_pb2_grpc.BlobServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.DownloadBlob(pb.DownloadBlobRequest(parent=world.project, digest=NOBODYS), timeout=10))
    assert Refusal(caught.value).reason == "PEER_NOT_ALLOWED"
    agent = blob_pb2_grpc.BlobServiceStub(pki.dial(world.process, "stream", "agent/node-1"))
    with pytest.raises(grpc.RpcError) as caught:
        list(agent.DownloadBlob(pb.DownloadBlobRequest(parent=world.project, digest=NOBODYS), timeout=10))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # the handshake fails: another CA


def test_bodies_may_come_in_small_pieces(world):
    """As Envoy cuts an HTTP body: about 16 KiB a message."""
    content = os.urandom(300_000)
    messages = upload_messages(world.project, digest_of(content), content, piece=16_384)
    messages[0].body.CopyFrom(HttpBody(content_type="application/octet-stream", data=messages[0].body.data))
    assert world.blobs().UploadBlob(iter(messages)).size_bytes == 300_000


def attempted(call, *arguments):
    try:
        return call(*arguments)
    except grpc.RpcError as error:
        return Refusal(error)


def staged_files(world):
    return os.listdir(world.staging.path(""))


def staged_sizes(world):
    sizes = []
    for name in staged_files(world):
        try:
            sizes.append(world.staging.path(name).stat().st_size)
        except FileNotFoundError:
            pass
    return sizes
