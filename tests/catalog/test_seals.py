"""SealManifest: what makes written blobs an output."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus_catalog.domain.blobs import Scope
from animus_catalog.domain.contents import Contents
from animus_catalog.store import blobs, containers
from animus_kit.db.engine import transaction
from animus_kit.documents import manifest
from tests.catalog.waiting import until
from tests.catalog.world import digest_of, manifest_of, output, refused

NOBODYS = "sha256:" + "0" * 64


def stat(world, grant, digest):
    return world.agent_blobs().StatBlob(pb.StatBlobRequest(grant=grant, digest=digest))


# Reading.


def test_a_seal_counts_what_the_output_holds(world):
    grant = world.grant(world.attempt())
    for content in (b"one", b"three"):
        world.write(grant, content)
    digest = world.write(grant, manifest_of({"a": b"one", "b": b"three", "c": b"one"}, manifest.ARTIFACT))
    request = pb.SealManifestRequest(grant=grant, digest=digest)
    answer = world.agent_blobs().SealManifest(request)
    assert (answer.file_count, answer.size_bytes) == (3, 11)
    assert world.agent_blobs().SealManifest(request) == answer


def test_an_output_may_hold_what_the_attempt_could_read(world):
    version = world.version(world.dataset(), {"in.csv": b"passed through"})
    grant = world.grant(world.attempt(), readable_manifests=(version.manifest_digest,))
    assert stat(world, grant, digest_of(b"passed through")).complete
    digest = world.write(grant, manifest_of({"out.csv": b"passed through"}, manifest.ARTIFACT))
    request = pb.SealManifestRequest(grant=grant, digest=digest)
    assert world.agent_blobs().SealManifest(request).file_count == 1


@pytest.mark.parametrize(
    "content",
    [
        b"not a manifest",
        b'{"entries":[],"type":"animus.dev/plan/v1"}',
        manifest.dumps([manifest.Entry("l", manifest.SYMLINK, target="a")], manifest.CODE),
    ],
)
def test_what_is_not_an_artifact_manifest_is_not_sealed(world, content):
    grant = world.grant(world.attempt())
    digest = world.write(grant, content)
    answer = refused(world.agent_blobs().SealManifest, pb.SealManifestRequest(grant=grant, digest=digest))
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "MANIFEST_INVALID", ["digest"])


def test_a_seal_needs_every_entry_and_the_right_sizes(world):
    grant = world.grant(world.attempt())
    digest = world.write(grant, manifest_of({"a": b"never written"}, manifest.ARTIFACT))
    request = pb.SealManifestRequest(grant=grant, digest=digest)
    assert "a was not written" in refused(world.agent_blobs().SealManifest, request).message
    world.write(grant, b"short")
    entry = manifest.Entry("a", manifest.FILE, 99, digest_of(b"short").removeprefix("sha256:"))
    digest = world.write(grant, manifest.dumps([entry], manifest.ARTIFACT))
    request = pb.SealManifestRequest(grant=grant, digest=digest)
    assert "has 5 bytes, not 99" in refused(world.agent_blobs().SealManifest, request).message
    request = pb.SealManifestRequest(grant=grant, digest=NOBODYS)
    assert refused(world.agent_blobs().SealManifest, request).reason == "MANIFEST_INVALID"


# Small outputs, written and sealed with one call.


def small(grant: bytes, *contents: bytes, seals: tuple[str, ...] = ()) -> pb.WriteSmallBlobsRequest:
    blobs = [pb.SmallBlob(digest=digest_of(data), data=data) for data in contents]
    return pb.WriteSmallBlobsRequest(grant=grant, blobs=blobs, manifest_digests=list(seals))


def test_a_small_output_is_written_and_sealed_with_one_call(world):
    attempt = world.attempt()
    grant = world.grant(attempt)
    found = manifest_of({"a": b"one", "b": b"three"}, manifest.ARTIFACT)
    request = small(grant, b"one", b"three", found, seals=(digest_of(found),))
    for _ in range(2):  # an answer that was lost
        world.agent_blobs().WriteSmallBlobs(request)
    for content in (b"one", b"three", found):
        assert stat(world, grant, digest_of(content)).complete
    sealed = world.agent_blobs().SealManifest(pb.SealManifestRequest(grant=grant, digest=digest_of(found)))
    assert (sealed.file_count, sealed.size_bytes) == (2, 8)


def test_small_blobs_are_written_all_or_none(world):
    grant = world.grant(world.attempt(), write_bytes=1000, write_blobs=4)
    stub = world.agent_blobs()
    unsealable = manifest_of({"a": b"never written"}, manifest.ARTIFACT)
    request = small(grant, b"one", unsealable, seals=(digest_of(unsealable),))
    assert refused(stub.WriteSmallBlobs, request).reason == "MANIFEST_INVALID"
    assert not stat(world, grant, digest_of(b"one")).complete
    wrong = pb.WriteSmallBlobsRequest(grant=grant, blobs=[pb.SmallBlob(digest=NOBODYS, data=b"x")])
    assert refused(stub.WriteSmallBlobs, wrong).reason == "DIGEST_MISMATCH"
    assert refused(stub.WriteSmallBlobs, small(grant, b"x" * 600, b"y" * 600)).reason == "OUTSIDE_GRANT"
    assert refused(stub.WriteSmallBlobs, small(grant, *(b"%d" % n for n in range(5)))).reason == "OUTSIDE_GRANT"
    assert not stat(world, grant, digest_of(b"x" * 600)).complete
    assert not stat(world, grant, digest_of(b"0")).complete
    assert (
        refused(stub.WriteSmallBlobs, small(grant, *(bytes([n]) * 600_000 for n in range(2)))).code
        == "INVALID_ARGUMENT"
    )


def test_small_blobs_are_not_taken_after_the_end(world):
    attempt = world.attempt()
    grant = world.grant(attempt)
    world.end_attempt(attempt)
    assert refused(world.agent_blobs().WriteSmallBlobs, small(grant, b"late")).reason == "GRANT_EXPIRED"


# One output of two attempts, of which the first fails while the second seals.


def waiting(world) -> int:
    """Statements that wait for a lock of another transaction."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with world.engine.connect() as conn:
        return conn.scalar(sa.text(query))


def lasts(world, made: str) -> bool:
    """Whether the second attempt's output has content once it is committed."""
    world.end_attempt(world.attempt(2), output(f"{world.project}/artifacts/r1-train-model", made))
    with transaction(world.engine) as conn:
        return containers.find(conn, world.project.removeprefix("projects/"), made) is not None


def test_what_is_sealed_while_another_attempt_is_swept_lasts(world, database):
    files = {"model.bin": b"same"}
    made = world.write_output(world.grant(world.attempt(1)), files)
    second = world.grant(world.attempt(2))
    with ThreadPoolExecutor(2) as pool, psycopg.connect(database.admin_dsn) as held:
        # Stops the sweep between its look at what is owned and its last statement.
        held.execute("SELECT 1 FROM catalog.container_entries FOR UPDATE")
        sweep = pool.submit(world.end_attempt, world.attempt(1), state="failed")
        until(lambda: waiting(world) == 1, "the sweep waits")
        seal = pool.submit(world.write_output, second, files)
        until(lambda: seal.done() or waiting(world) == 2, "the seal ends or waits")
        held.rollback()
        assert (sweep.result(), seal.result()) == (None, made)
    assert lasts(world, made)


def test_what_is_sealed_before_another_attempt_is_swept_lasts(world):
    made = world.write_output(world.grant(world.attempt(1)), {"model.bin": b"same"})
    project = world.project.removeprefix("projects/")
    with ThreadPoolExecutor(1) as pool:
        with transaction(world.engine) as conn:
            # As WriteSmallBlobs does: staged and sealed in one transaction, which nobody sees yet.
            blobs.stage(conn, Scope(project, world.attempt(2)), made, 1, datetime.now(UTC))
            containers.add(conn, project, Contents(made, 1, 4, list))
            sweep = pool.submit(world.end_attempt, world.attempt(1), state="failed")
            until(lambda: sweep.done() or waiting(world) == 1, "the sweep ends or waits")
        sweep.result()
    assert lasts(world, made)
