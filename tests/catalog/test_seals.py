"""SealManifest: what makes written blobs an output."""

from __future__ import annotations

import pytest

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus_kit.documents import manifest
from tests.catalog.world import digest_of, manifest_of, refused

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
