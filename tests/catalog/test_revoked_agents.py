"""Who was revoked, or enrolled again, is refused on the agents' listener: also with a certificate and a grant that hold."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from cryptography import x509

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus_catalog.tail import agents
from animus_kit.db.engine import transaction
from animus_kit.db.tail import Event
from animus_kit.documents import event
from animus_kit.status import from_rpc_error
from tests.catalog.waiting import until
from tests.catalog.world import digest_of, refused, write_messages


def agent_event(agent: str, kind: str, **body: Any) -> Event:
    payload = event.build_payload(kind, body)
    salt = bytes(32)
    envelope = event.build_envelope(
        id=str(uuid.uuid4()),
        source="orchestrator",
        generation=str(uuid.uuid4()),
        seq=1,
        event_type=kind,
        time=datetime.now(UTC),
        resource=f"agents/{agent}",
        actor="service/orchestrator",
        salt=salt,
        payload=payload,
        project=None,
    )
    return Event(0, envelope, payload, salt)


def apply(world: Any, one: Event) -> None:
    with transaction(world.engine) as conn:
        agents.apply(conn, one)


@pytest.fixture
def node(world: Any) -> str:
    return f"node-{uuid.uuid4().hex[:8]}"


def calls(world: Any, node: str, grant: bytes) -> dict[str, Any]:
    """Every method of the listener, as the node."""
    it = world.agent_blobs(node)
    digest = digest_of(b"x")
    return {
        "ReadBlob": (it.ReadBlob, pb.ReadBlobRequest(grant=grant, container_digest=digest, digest=digest)),
        "WriteBlob": (it.WriteBlob, iter(write_messages(grant, digest, b"x"))),
        "WriteSmallBlobs": (
            it.WriteSmallBlobs,
            pb.WriteSmallBlobsRequest(grant=grant, blobs=[pb.SmallBlob(digest=digest, data=b"x")]),
        ),
        "StatBlob": (it.StatBlob, pb.StatBlobRequest(grant=grant, digest=digest)),
        "SealManifest": (it.SealManifest, pb.SealManifestRequest(grant=grant, digest=digest)),
    }


def test_a_revoked_agent_is_refused_on_every_method(world: Any, node: str) -> None:
    grant = world.grant(world.attempt(), agent=f"agents/{node}")
    world.write(grant, b"before", agent=node)
    apply(world, agent_event(node, agents.REVOKED, reason=None, message="the disk was stolen"))
    apply(world, agent_event(node, agents.REVOKED, reason=None, message="the disk was stolen"))
    stat = pb.StatBlobRequest(grant=grant, digest=digest_of(b"before"))

    def out() -> bool:
        try:
            world.agent_blobs(node).StatBlob(stat)
        except grpc.RpcError:
            return True
        return False

    until(out, "the refusal")
    every = calls(world, node, grant)
    assert set(every) == {method.name for method in pb.DESCRIPTOR.services_by_name["AgentBlobService"].methods}
    for name, (call, request) in every.items():
        refusal = refused(call, request)
        assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "AGENT_REVOKED"), name
    # Another node has nothing to do with it.
    other = world.grant(world.attempt(step="other"), agent="agents/node-1")
    world.write(other, b"of another node")


def test_an_erased_revocation_still_keeps_the_node_out(world: Any, node: str) -> None:
    found = agent_event(node, agents.REVOKED, message="x")
    apply(world, Event(found.index, found.envelope, b"", b""))
    grant = world.grant(world.attempt(), agent=f"agents/{node}")
    request = pb.StatBlobRequest(grant=grant, digest=digest_of(b"x"))
    until(lambda: _reason(world, node, request) == "AGENT_REVOKED", "the refusal")


def test_a_stream_that_is_under_way_is_cut(world: Any, node: str) -> None:
    grant = world.grant(world.attempt(), agent=f"agents/{node}")
    content = b"y" * 300_000
    pieces = write_messages(grant, digest_of(content), content, piece=1000)
    request = pb.StatBlobRequest(grant=grant, digest=digest_of(b"z"))
    revoked = False

    def slowly() -> Any:
        nonlocal revoked
        yield from pieces[:3]
        apply(world, agent_event(node, agents.REVOKED))
        revoked = True
        until(lambda: _reason(world, node, request) == "AGENT_REVOKED", "the refusal")
        yield from pieces[3:]

    assert refused(world.agent_blobs(node).WriteBlob, slowly()).reason == "AGENT_REVOKED"
    assert revoked


def test_after_enrolling_again_only_the_former_certificates_are_out(world: Any, node: str) -> None:
    grant = world.grant(world.attempt(), agent=f"agents/{node}")
    world.write(grant, b"before", agent=node)
    used = x509.load_pem_x509_certificate(world.pki.agent(node).cert.read_bytes())
    request = pb.StatBlobRequest(grant=grant, digest=digest_of(b"before"))
    apply(world, agent_event(node, agents.REENROLLED, endedSerials=["1234"]))
    world.write(grant, b"after another's serial", agent=node)
    apply(world, agent_event(node, agents.REENROLLED, endedSerials=[format(used.serial_number, "x")]))
    until(lambda: _reason(world, node, request) == "CERTIFICATE_SUPERSEDED", "the refusal")


def _reason(world: Any, node: str, request: Any) -> str:
    try:
        world.agent_blobs(node).StatBlob(request)
    except grpc.RpcError as error:
        return from_rpc_error(error).reason
    return ""
