"""AgentBlobService: what a grant lets an agent do, and nothing else."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import sqlalchemy as sa

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus.catalog.v1 import agent_blob_pb2_grpc, blob_pb2, project_pb2, project_pb2_grpc
from animus_kit import pki as kit_pki
from animus_kit.documents import manifest
from tests.catalog.world import Refusal, digest_of, manifest_of, output, refused, write_messages

NOBODYS = "sha256:" + "0" * 64


def refused_write(world, grant, content, agent="node-1", **header):
    digest = header.pop("digest", digest_of(content))
    return refused(world.agent_blobs(agent).WriteBlob, iter(write_messages(grant, digest, content, **header)))


def refused_read(world, grant, container, digest, agent="node-1"):
    request = pb.ReadBlobRequest(grant=grant, container_digest=container, digest=digest)
    return refused(world.agent_blobs(agent).ReadBlob, request)


def stat(world, grant, digest):
    return world.agent_blobs().StatBlob(pb.StatBlobRequest(grant=grant, digest=digest))


# Reading.


def test_a_grant_opens_its_manifests_and_what_they_name(world):
    files = {"a.csv": os.urandom(1_500_000), "b/c.csv": b"1,2"}
    version = world.version(world.dataset(), files)
    grant = world.grant(world.attempt(), readable_manifests=(version.manifest_digest,))
    container = version.manifest_digest
    assert world.read(grant, container, container) == manifest_of(files)
    for content in files.values():
        assert world.read(grant, container, digest_of(content)) == content
    assert world.read(grant, container, digest_of(files["a.csv"]), offset=1_499_999) == files["a.csv"][-1:]


def test_messages_are_at_most_a_mebibyte(world):
    content = os.urandom(3_000_000)
    version = world.version(world.dataset(), {"a": content})
    grant = world.grant(world.attempt(), readable_manifests=(version.manifest_digest,))
    request = pb.ReadBlobRequest(grant=grant, container_digest=version.manifest_digest, digest=digest_of(content))
    assert max(len(answer.data) for answer in world.agent_blobs().ReadBlob(request)) <= 1 << 20


def test_an_empty_blob_is_read(world):
    version = world.version(world.dataset(), {"empty": b""})
    grant = world.grant(world.attempt(), readable_manifests=(version.manifest_digest,))
    assert world.read(grant, version.manifest_digest, digest_of(b"")) == b""


def test_content_outside_of_the_grant_answers_like_content_that_is_not_there(world):
    dataset = world.dataset()
    mine = world.version(dataset, {"a": b"granted"})
    other = world.version(dataset, {"a": b"not granted"})
    grant = world.grant(world.attempt(), readable_manifests=(mine.manifest_digest,))
    cases = [
        (mine.manifest_digest, digest_of(b"not granted")),  # owned by the project, not in the container
        (other.manifest_digest, digest_of(b"not granted")),  # a container of the project, not in the grant
        (other.manifest_digest, other.manifest_digest),
        (mine.manifest_digest, NOBODYS),
        (NOBODYS, NOBODYS),
    ]
    shapes = {refused_read(world, grant, *case).shape(*case) for case in cases}
    ((code, _, reason, *_),) = shapes
    assert (code, reason) == ("PERMISSION_DENIED", "OUTSIDE_GRANT")


def test_a_grant_does_not_reach_into_another_project(world):
    """Even one that names the other project's manifest: a stolen digest is worth nothing."""
    stolen = world.version(world.dataset(), {"a": b"the first project's"}).manifest_digest
    world.new_project("bob")
    grant = world.grant(world.attempt(), readable_manifests=(stolen, NOBODYS))
    theirs = refused_read(world, grant, stolen, digest_of(b"the first project's"))
    assert theirs.reason == "OUTSIDE_GRANT"
    assert theirs.shape() == refused_read(world, grant, NOBODYS, NOBODYS).shape()
    assert refused_read(world, grant, stolen, stolen).reason == "OUTSIDE_GRANT"


def test_the_next_step_reads_before_the_commit_event_arrives(world):
    first = world.grant(world.attempt(step="prepare"))
    made = world.write_output(first, {"rows.bin": b"prepared"})
    second = world.grant(world.attempt(step="train"), readable_manifests=(made,))
    assert world.read(second, made, made) == manifest_of({"rows.bin": b"prepared"}, manifest.ARTIFACT)
    assert world.read(second, made, digest_of(b"prepared")) == b"prepared"
    # People see it when it is committed.
    request = blob_pb2.DownloadBlobRequest(parent=world.project, digest=digest_of(b"prepared"))
    assert refused(world.blobs().DownloadBlob, request).reason == "BLOB_NOT_FOUND"
    name = f"{world.project}/artifacts/r1-prepare-rows"
    world.end_attempt(world.attempt(step="prepare"), output(name, made))
    assert world.download(digest_of(b"prepared")) == b"prepared"
    assert world.read(second, made, digest_of(b"prepared")) == b"prepared"


# The grant itself.


def test_grants_that_are_not_ours(world):
    attempt = world.attempt()
    past = datetime.now(UTC) - timedelta(minutes=10)
    cases = {
        "GRANT_INVALID": [
            b"not an envelope",
            world.grant(attempt, key=kit_pki.new_signing_key()),
            world.grant(attempt, agent="agents/node-2"),
            world.grant(attempt)[:-3] + b'x"}',
        ],
        "GRANT_EXPIRED": [world.grant(attempt, issue_time=past, expire_time=past + timedelta(minutes=9))],
    }
    for reason, grants in cases.items():
        for grant in grants:
            assert refused_read(world, grant, NOBODYS, NOBODYS).reason == reason
            assert refused_write(world, grant, b"x").reason == reason
            request = pb.StatBlobRequest(grant=grant, digest=NOBODYS)
            answer = refused(world.agent_blobs().StatBlob, request)
            assert (answer.code, answer.reason) == ("PERMISSION_DENIED", reason)
            seal = pb.SealManifestRequest(grant=grant, digest=NOBODYS)
            assert refused(world.agent_blobs().SealManifest, seal).reason == reason


def test_another_agent_cannot_use_a_grant(world):
    grant = world.grant(world.attempt())
    assert refused_write(world, grant, b"x", agent="node-2").reason == "GRANT_INVALID"
    assert refused_read(world, grant, NOBODYS, NOBODYS, agent="node-2").reason == "GRANT_INVALID"


def test_agents_reach_no_other_listener_and_nobody_else_reaches_theirs(world, pki):
    stub = project_pb2_grpc.ProjectServiceStub(pki.dial(world.process, "sync", "agent/node-1"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetProject(project_pb2.GetProjectRequest(name=world.project), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    for peer in ("gateway", "service/orchestrator"):
        stub = agent_blob_pb2_grpc.AgentBlobServiceStub(pki.dial(world.process, "agents", peer))
        with pytest.raises(grpc.RpcError) as caught:
            stub.StatBlob(pb.StatBlobRequest(grant=world.grant(world.attempt()), digest=NOBODYS), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


# Writing.


def test_what_is_written_is_staged_until_the_attempt_commits(world):
    attempt = world.attempt()
    grant = world.grant(attempt)
    made = world.write_output(grant, {"model.bin": b"weights"})
    assert stat(world, grant, made) == pb.StatBlobResponse(
        complete=True, offset_bytes=len(manifest_of({"model.bin": b"weights"}, manifest.ARTIFACT))
    )
    request = blob_pb2.ListMissingBlobsRequest(parent=world.project, digests=[made])
    assert world.blobs().ListMissingBlobs(request).missing_digests == [made]
    world.end_attempt(attempt, output(f"{world.project}/artifacts/r1-train-model", made))
    assert world.blobs().ListMissingBlobs(request).missing_digests == []
    assert refused_write(world, grant, b"late").reason == "GRANT_EXPIRED"


def test_a_failed_attempt_leaves_nothing(world):
    attempt = world.attempt()
    grant = world.grant(attempt)
    made = world.write_output(grant, {"model.bin": b"worthless"})
    part = os.urandom(2_000_000)
    refused_write(world, grant, part[:1_500_000], digest=digest_of(part), size=len(part))
    world.end_attempt(attempt, state="failed")
    with world.engine.connect() as conn:
        for table in ("staged_blobs", "uploads", "project_blobs", "containers"):
            count = sa.text(f"SELECT count(*) FROM {table} WHERE project = :p")
            assert conn.scalar(count, {"p": world.project.removeprefix("projects/")}) == 0, table
    assert os.listdir(world.staging.path("")) == []
    later = world.grant(world.attempt(2), readable_manifests=(made,))
    assert refused_read(world, later, made, made).reason == "OUTSIDE_GRANT"
    assert refused_write(world, grant, b"late").reason == "GRANT_EXPIRED"
    # The next attempt writes the same again.
    assert world.write_output(later, {"model.bin": b"worthless"}) == made


def test_a_failed_attempt_does_not_take_what_another_one_wrote(world):
    first, second = world.grant(world.attempt(1)), world.grant(world.attempt(2))
    made = world.write_output(first, {"model.bin": b"same"})
    assert world.write_output(second, {"model.bin": b"same"}) == made
    world.end_attempt(world.attempt(1), state="failed")
    world.end_attempt(world.attempt(2), output(f"{world.project}/artifacts/r1-train-model", made))
    assert world.download(digest_of(b"same")) == b"same"


def test_an_ended_attempt_stays_as_it_ended(world):
    """A doubled or late event changes nothing."""
    attempt = world.attempt()
    made = world.write_output(world.grant(attempt), {"model.bin": b"kept"})
    world.end_attempt(attempt, output(f"{world.project}/artifacts/r1-train-model", made))
    before = world.events()
    world.end_attempt(attempt, output(f"{world.project}/artifacts/r1-train-model", made))
    world.end_attempt(attempt, state="failed")
    assert world.events() == before
    assert world.download(digest_of(b"kept")) == b"kept"


def test_wrong_content_is_refused(world):
    grant = world.grant(world.attempt())
    answer = refused_write(world, grant, b"this", digest=digest_of(b"that"))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "DIGEST_MISMATCH")
    assert not stat(world, grant, digest_of(b"that")).complete


def test_the_quota_of_blobs_holds(world):
    grant = world.grant(world.attempt(), write_blobs=2)
    world.write(grant, b"one")
    world.write(grant, b"two")
    world.write(grant, b"one")  # the same again is not another one
    answer = refused_write(world, grant, b"three")
    assert (answer.code, answer.reason, answer.metadata["limit"]) == ("PERMISSION_DENIED", "OUTSIDE_GRANT", "blobs")


def test_the_quota_of_bytes_holds(world):
    grant = world.grant(world.attempt(), write_bytes=1000)
    world.write(grant, b"a" * 600)
    answer = refused_write(world, grant, b"b" * 401)
    assert (answer.reason, answer.metadata["limit"]) == ("OUTSIDE_GRANT", "bytes")
    world.write(grant, b"b" * 400)


def test_the_quota_holds_for_writes_side_by_side(world):
    grant = world.grant(world.attempt(), write_blobs=3)

    def write(number):
        try:
            world.write(grant, b"%d" % number * 100_000)
            return "written"
        except grpc.RpcError as error:
            return Refusal(error).reason

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(write, range(12)))
    assert set(results) == {"written", "OUTSIDE_GRANT"}
    with world.engine.connect() as conn:
        count = sa.text("SELECT count(*) FROM staged_blobs WHERE attempt = :a")
        assert conn.scalar(count, {"a": world.attempt()}) == results.count("written") <= 3


def test_a_write_that_is_tried_again_counts_once(world):
    """Its connection broke, and the server has not noticed yet."""
    content = os.urandom(2_000_000)
    grant = world.grant(world.attempt(), write_bytes=len(content), write_blobs=1)
    messages = write_messages(grant, digest_of(content), content)
    begun, ended = threading.Event(), threading.Event()

    def half():
        yield messages[0]
        begun.set()
        ended.wait(20)

    call = world.agent_blobs()._stub.WriteBlob.future(half(), timeout=20)
    assert begun.wait(10)
    world.write(grant, content)
    call.cancel()
    ended.set()
    assert stat(world, grant, digest_of(content)).complete


def test_many_writes_of_one_digest_are_within_the_quota(world):
    """Each lies in a file of its own, and one that announces less does not hide one that announces more."""
    grant = world.grant(world.attempt(), write_bytes=4_000_000)
    digest, ended = digest_of(b"never sent whole"), threading.Event()

    def begin(size):
        files, deadline = set(world.staging.path("").iterdir()), time.monotonic() + 10

        def messages():
            yield write_messages(grant, digest, b"x", size=size)[0]
            ended.wait(20)

        call = world.agent_blobs()._stub.WriteBlob.future(messages(), timeout=20)
        while not set(world.staging.path("").iterdir()) - files:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return call

    calls = [begin(4_000_000), begin(1)]
    try:
        answer = refused_write(world, grant, b"another", size=3_999_999)
        assert (answer.reason, answer.metadata["limit"]) == ("OUTSIDE_GRANT", "bytes")
        assert refused_write(world, grant, b"x", digest=digest, size=4_000_000).reason == "OUTSIDE_GRANT"
    finally:
        for call in calls:
            call.cancel()
        ended.set()


def test_what_is_kept_of_broken_writes_is_within_the_quota(world):
    grant = world.grant(world.attempt(), write_bytes=5_000_000)
    first, second, third = (os.urandom(3_000_000) for _ in range(3))
    for content in (first, second):
        answer = refused_write(world, grant, content[:2_000_000], digest=digest_of(content), size=len(content))
        assert answer.reason == "UPLOAD_INCOMPLETE"
    answer = refused_write(world, grant, third[:2_000_000], digest=digest_of(third), size=len(third))
    assert (answer.reason, answer.metadata["limit"]) == ("OUTSIDE_GRANT", "bytes")
    world.write(grant, first, offset=2_000_000)
    assert stat(world, grant, digest_of(first)).complete


def test_a_write_goes_on(world):
    grant = world.grant(world.attempt())
    content = os.urandom(3_000_000)
    answer = refused_write(world, grant, content[:2_000_000], digest=digest_of(content), size=len(content))
    assert answer.reason == "UPLOAD_INCOMPLETE"
    assert stat(world, grant, digest_of(content)) == pb.StatBlobResponse(offset_bytes=2_000_000)
    other = world.grant(world.attempt(2))
    assert stat(world, other, digest_of(content)).offset_bytes == 0
    world.write(grant, content, offset=2_000_000)
    assert stat(world, grant, digest_of(content)).complete


def test_knowing_a_digest_is_not_having_its_content(world):
    """The project owns it, the grant does not name it: the attempt must send it, and cannot name it otherwise."""
    secret = world.upload(b"owned by the project")
    grant = world.grant(world.attempt())
    assert stat(world, grant, secret) == pb.StatBlobResponse()
    assert refused_write(world, grant, b"a guess of the length", digest=secret).reason == "DIGEST_MISMATCH"
    entry = manifest.Entry("stolen", manifest.FILE, 20, secret.removeprefix("sha256:"))
    digest = world.write(grant, manifest.dumps([entry], manifest.ARTIFACT))
    answer = refused(world.agent_blobs().SealManifest, pb.SealManifestRequest(grant=grant, digest=digest))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "MANIFEST_INVALID")


def test_a_write_says_what_it_is_in_its_first_message(world):
    assert refused(world.agent_blobs().WriteBlob, iter([])).reason == "UPLOAD_HEADER_INVALID"
    messages = write_messages(b"", digest_of(b"x"), b"x")
    answer = refused(world.agent_blobs().WriteBlob, iter(messages))
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["grant"])
    messages = write_messages(world.grant(world.attempt()), digest_of(b"xy"), b"xy", piece=1)
    messages[1].digest = NOBODYS
    assert refused(world.agent_blobs().WriteBlob, iter(messages)).reason == "UPLOAD_HEADER_INVALID"


def test_bad_digests_are_located(world):
    grant = world.grant(world.attempt())
    assert refused(world.agent_blobs().StatBlob, pb.StatBlobRequest(grant=grant, digest="x")).fields == ["digest"]
    request = pb.ReadBlobRequest(grant=grant, container_digest="x", digest=NOBODYS)
    assert refused(world.agent_blobs().ReadBlob, request).fields == ["container_digest"]


# Sealing.
