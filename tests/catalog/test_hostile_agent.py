"""A compromised node against the blob listener: refused, in the log, and the project's content is what it was."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus_kit import pki as kit_pki
from animus_kit.documents import dsse, manifest
from animus_kit.documents.contract import Grant
from tests.catalog.world import digest_of, manifest_of, output, refused, write_messages

NODE, OTHER = "node-1", "node-2"
TABLES = ("project_blobs", "staged_blobs", "containers", "container_entries", "artifacts", "uploads", "ended_attempts")
SECRET = b"what the other attempt reads"
METHODS = ("ReadBlob", "WriteBlob", "WriteSmallBlobs", "StatBlob", "SealManifest")


def rows(world) -> dict[str, list[str]]:
    """All that the catalog knows of content, as text."""
    with world.engine.connect() as conn:
        return {t: sorted(repr(tuple(row)) for row in conn.execute(sa.text(f"SELECT * FROM {t}"))) for t in TABLES}


def told(world, agent: str, reason: str) -> int:
    """Waits until the log holds refusals of this node for this reason; how many, those that were only counted too."""
    end = time.monotonic() + 10
    while True:
        with world.engine.connect() as conn:
            found = conn.execute(sa.text("SELECT payload FROM outbox WHERE event_type = 'catalog.access.denied'")).all()
        payloads = [json.loads(bytes(row.payload)) for row in found]
        mine = [p for p in payloads if p["peer"] == f"agent/{agent}" and p.get("reason") == reason]
        if mine:
            return len(mine)
        assert time.monotonic() < end, f"{reason} of {agent} is not in the log: {payloads}"
        time.sleep(0.02)


class Scene:
    """node-1 reads a dataset and has written an output; node-2 is hostile and knows every byte of node-1's grant."""

    def __init__(self, world) -> None:
        self.world = world
        self.container = world.version(world.dataset(), {"a": SECRET}).manifest_digest
        self.attempt = world.attempt()
        self.grant = world.grant(self.attempt, readable_manifests=(self.container,))
        self.output = world.write_output(self.grant, {"model.bin": b"true weights"})
        self.before = rows(world)

    def refused(self, agent: str, grant: bytes, content: bytes = b"forged") -> set[str]:
        """Asks for everything with this grant; the reasons."""
        stub = self.world.agent_blobs(agent)
        digest = digest_of(SECRET)
        calls: dict[str, tuple[Callable[..., Any], Any]] = {
            "ReadBlob": (
                stub.ReadBlob,
                pb.ReadBlobRequest(grant=grant, container_digest=self.container, digest=digest),
            ),
            "WriteBlob": (stub.WriteBlob, iter(write_messages(grant, digest_of(content), content))),
            "WriteSmallBlobs": (
                stub.WriteSmallBlobs,
                pb.WriteSmallBlobsRequest(
                    grant=grant,
                    blobs=[pb.SmallBlob(digest=digest_of(content), data=content)],
                    manifest_digests=[self.output],
                ),
            ),
            "StatBlob": (stub.StatBlob, pb.StatBlobRequest(grant=grant, digest=digest)),
            "SealManifest": (stub.SealManifest, pb.SealManifestRequest(grant=grant, digest=self.output)),
        }
        return {refused(call, request).reason for call, request in calls.values()}

    def unchanged(self) -> None:
        assert rows(self.world) == self.before
        assert self.world.read(self.grant, self.container, digest_of(SECRET)) == SECRET


@pytest.fixture
def scene(world) -> Scene:
    return Scene(world)


def altered(grant: bytes, **changes: Any) -> bytes:
    """The same signatures around other words."""
    envelope = json.loads(grant)
    payload, _ = dsse.open_unverified(grant, Grant.NOUN)
    document = Grant.from_dict(json.loads(payload) | changes)
    envelope["payload"] = base64.b64encode(document.to_bytes()).decode()
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()


def test_a_grant_that_was_stolen_from_another_node(scene):
    assert scene.refused(OTHER, scene.grant) == {"GRANT_INVALID"}
    told(scene.world, OTHER, "GRANT_INVALID")
    scene.unchanged()


def test_grants_that_are_forged_widened_or_kept_too_long(scene):
    world, past = scene.world, datetime.now(UTC) - timedelta(minutes=10)
    own = world.grant(scene.attempt, agent=f"agents/{OTHER}")
    forged = {
        "another name": altered(scene.grant, agent=f"agents/{OTHER}"),
        "more to read": altered(own, readableManifests=[scene.container]),
        "more to write": altered(own, writeBytes=str(1 << 60)),
        "longer": altered(own, expireTime="2199-01-01T00:00:00.000000Z"),
        "its own key": world.grant(scene.attempt, agent=f"agents/{OTHER}", key=kit_pki.new_signing_key()),
        "no grant": b"{}",
        "the envelope of another noun": dsse.sign(b"{}", "contract", world.trust.contract_key),
    }
    for what, grant in forged.items():
        assert scene.refused(OTHER, grant) == {"GRANT_INVALID"}, what
    told(world, OTHER, "GRANT_INVALID")
    expired = world.grant(
        scene.attempt, agent=f"agents/{OTHER}", issue_time=past, expire_time=past + timedelta(minutes=9)
    )
    assert scene.refused(OTHER, expired) == {"GRANT_EXPIRED"}
    told(world, OTHER, "GRANT_EXPIRED")
    scene.unchanged()


def test_content_outside_of_its_own_grant(scene):
    """A true grant of its own project, and digests that it has no business to know."""
    world = scene.world
    theirs = world.version_of_another_project()
    grant = world.grant(world.attempt(run="r2"), agent=f"agents/{OTHER}")
    stub = world.agent_blobs(OTHER)
    before = rows(world)
    for container, digest in ((scene.container, digest_of(SECRET)), (theirs, theirs), (scene.output, scene.output)):
        request = pb.ReadBlobRequest(grant=grant, container_digest=container, digest=digest)
        assert refused(stub.ReadBlob, request).reason == "OUTSIDE_GRANT"
        assert stub.StatBlob(pb.StatBlobRequest(grant=grant, digest=digest)) == pb.StatBlobResponse()
    # A manifest of what it never wrote makes nothing its own.
    stolen = manifest_of({"a": SECRET}, manifest.ARTIFACT)
    stub.WriteBlob(iter(write_messages(grant, digest_of(stolen), stolen)))
    seal = pb.SealManifestRequest(grant=grant, digest=digest_of(stolen))
    assert refused(stub.SealManifest, seal).reason == "MANIFEST_INVALID"
    told(world, OTHER, "OUTSIDE_GRANT")
    told(world, OTHER, "MANIFEST_INVALID")
    after = rows(world)
    assert {t for t in TABLES if after[t] != before[t]} == {"staged_blobs"}, "its own words, in its own attempt"


def test_bytes_that_are_not_their_digest_and_more_than_was_granted(scene):
    world = scene.world
    grant = world.grant(world.attempt(run="r2"), agent=f"agents/{OTHER}", write_bytes=100, write_blobs=2)
    stub = world.agent_blobs(OTHER)

    def reason(content: bytes, **header: Any) -> str:
        digest = header.pop("digest", digest_of(content))
        return refused(stub.WriteBlob, iter(write_messages(grant, digest, content, **header))).reason

    # The digest of the victim's output, and other bytes under it.
    assert reason(b"evil weights", digest=digest_of(b"true weights")) == "DIGEST_MISMATCH"
    assert reason(b"x" * 101) == "OUTSIDE_GRANT"
    assert reason(b"x" * 200, size=50) in ("SIZE_MISMATCH", "UPLOAD_TOO_LARGE", "SIZE_EXCEEDED", "DIGEST_MISMATCH")
    told(world, OTHER, "DIGEST_MISMATCH")
    told(world, OTHER, "OUTSIDE_GRANT")
    for content in (b"1", b"2"):
        world.write(grant, content, agent=OTHER)
    assert reason(b"3") == "OUTSIDE_GRANT"
    assert world.read(scene.grant, scene.container, digest_of(SECRET)) == SECRET


def test_nothing_is_read_or_written_under_an_attempt_that_has_ended(scene):
    world = scene.world
    assert world.read(scene.grant, scene.container, digest_of(SECRET)) == SECRET
    world.end_attempt(scene.attempt, output(f"{world.project}/artifacts/r1-train-model", scene.output))
    before = rows(world)
    stub = world.agent_blobs(NODE)
    read = pb.ReadBlobRequest(grant=scene.grant, container_digest=scene.container, digest=digest_of(SECRET))
    assert refused(stub.ReadBlob, read).reason == "GRANT_EXPIRED"
    late = write_messages(scene.grant, digest_of(b"late"), b"late")
    assert refused(stub.WriteBlob, iter(late)).reason == "GRANT_EXPIRED"
    assert refused(stub.SealManifest, pb.SealManifestRequest(grant=scene.grant, digest=scene.output)).reason in (
        "GRANT_EXPIRED", "MANIFEST_INVALID",
    )  # fmt: skip
    told(world, NODE, "GRANT_EXPIRED")
    assert rows(world) == before


def test_a_flood_of_refusals_is_counted_and_fills_no_log(scene):
    world = scene.world
    stub = world.agent_blobs("node-3")
    for _ in range(50):
        request = pb.StatBlobRequest(grant=b"no grant", digest=digest_of(b"x"))
        assert refused(stub.StatBlob, request).reason == "GRANT_INVALID"
    assert told(world, "node-3", "GRANT_INVALID") == 10
    scene.unchanged()


def test_messages_beyond_all_bounds(scene):
    world = scene.world
    grant = world.grant(world.attempt(run="r2"), agent=f"agents/{OTHER}")
    stub = world.agent_blobs(OTHER)
    before = rows(world)
    giant = pb.WriteBlobRequest(grant=grant, digest=digest_of(b"x"), size_bytes=1 << 40, data=b"x" * (9 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        stub.WriteBlob(iter([giant]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for request in (
        pb.WriteBlobRequest(grant=grant, digest="sha256:short", size_bytes=1),
        pb.WriteBlobRequest(grant=grant, digest=digest_of(b"x"), size_bytes=-1),
        pb.WriteBlobRequest(grant=b"x" * (1 << 20), digest=digest_of(b"x"), size_bytes=1),
        pb.WriteBlobRequest(digest=digest_of(b"x"), size_bytes=1),
    ):
        assert refused(stub.WriteBlob, iter([request])).code in ("INVALID_ARGUMENT", "PERMISSION_DENIED")
    told(world, OTHER, "REQUEST_INVALID")
    assert rows(world) == before
