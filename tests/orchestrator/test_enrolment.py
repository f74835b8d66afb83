"""Join tokens, enrolment, renewal: who gets a certificate, and which one is good."""

from __future__ import annotations

import asyncio
import base64
import uuid
from datetime import timedelta

import grpc
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc, enrollment_pb2
from animus.orchestrator.v1 import agent_pb2
from animus_kit import pki
from animus_kit.documents import dsse
from animus_kit.documents.bundle import AttestationCertificate
from animus_kit.status import from_rpc_error
from animus_kit.testing.clock import FakeClock
from animus_orchestrator.domain.errors import EnrollmentRate
from animus_orchestrator.service import enrollment
from animus_orchestrator.service.enrollment import BURST, EnrollmentService, address_of
from tests.orchestrator.agents import Agent
from tests.orchestrator.steering import refused
from tests.orchestrator.world import DOMAIN, until


@pytest.fixture
def fresh(world, project):
    return Agent(world, projects=[project], enroll=False)


def test_an_agent_enrols_with_a_token_and_the_server_sets_every_field(world, project, fresh):
    token = fresh.token(pool="gpu", projects=[project], labels={"zone": "a"})
    prefix, _, _, pin = token.split(".")
    assert prefix == "animus1" and pin == world.pki.services.pin
    answer = fresh.enroll(token)
    assert answer.agent == f"agents/{fresh.name}" and answer.trust_domain == DOMAIN
    assert (answer.dispatch_endpoint, answer.blob_endpoint) == ("dispatch.test:1", "blobs.test:2")
    assert answer.services_ca == world.pki.services.certificate_pem and answer.trust_bundle
    leaf = x509.load_pem_x509_certificate(answer.tls_certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == [f"spiffe://{DOMAIN}/agent/{fresh.name}"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH] and not list(leaf.subject)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=25)
    payload, _ = dsse.verify(
        answer.attestation_certificate, AttestationCertificate.NOUN, [world.pki.attestation.public_key()]
    )
    attested = AttestationCertificate.from_bytes(payload)
    assert attested.agent == answer.agent
    assert pki.raw_public_key(attested.key()) == pki.raw_public_key(fresh.attestation.public_key())
    shown = world.agents.GetAgent(agent_pb2.GetAgentRequest(name=answer.agent), **world.as_user())
    assert (shown.pool, list(shown.projects), dict(shown.labels)) == ("gpu", [project], {"zone": "a"})
    assert shown.state == agent_pb2.Agent.STATE_ENROLLED
    events = until(lambda: [e for e in world.events("orchestrator.agent.enrolled") if e["resource"] == shown.name])
    assert events[0]["attestationKeyId"] == attested.key_id and events[0]["pool"] == "gpu"


def test_a_token_serves_one_key_and_that_key_as_often_as_it_asks(world, project, fresh):
    token = fresh.token(projects=[project])
    first = fresh.enroll(token)
    assert fresh.enroll(token) == first, "a lost answer is given again"
    thief = Agent(world, enroll=False)
    assert refused(thief.enroll, token).reason == "TOKEN_USED"
    until(lambda: [e for e in world.events("orchestrator.join-token.misused") if e["resource"] == first.agent])


@pytest.mark.parametrize("wrong", ["", "x", "animus1.a.b", "animus2.a.b.c", "animus1..b.c", "animus1.a\0.b.c"])
def test_what_is_no_token_is_refused(world, fresh, wrong):
    assert refused(fresh.enroll, wrong).reason in ("TOKEN_INVALID", "REQUEST_INVALID")


def test_a_wrong_secret_and_an_unknown_id_look_alike(world, project, fresh):
    prefix, token_id, secret, pin = fresh.token(projects=[project]).split(".")
    wrong = refused(fresh.enroll, f"{prefix}.{token_id}.{secret[::-1]}.{pin}")
    unknown = refused(fresh.enroll, f"{prefix}.{'0' * 16}.{secret}.{pin}")
    assert (wrong.reason, wrong.message) == (unknown.reason, unknown.message)
    assert wrong.reason == "TOKEN_INVALID" and wrong.code == "UNAUTHENTICATED"


def test_an_expired_token_is_refused(world, project, fresh):
    token = fresh.token(projects=[project])
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE join_tokens SET expire_time = now() - interval '1 second' WHERE id = :i"),
            {"i": token.split(".")[1]},
        )
    assert refused(fresh.enroll, token).reason == "TOKEN_EXPIRED"


def test_the_database_holds_no_secret(world, project, fresh):
    secret = fresh.token(projects=[project]).split(".")[2]
    with world.engine.connect() as conn:
        text = str(conn.execute(sa.text("SELECT * FROM join_tokens")).all())
        text += str(conn.execute(sa.text("SELECT * FROM requests")).all())
    assert secret not in text


def test_keys_must_be_of_the_right_kind_and_held(world, project, fresh):
    token = fresh.token(projects=[project])
    other = pki.new_signing_key()
    proof = other.sign(b"animus-enroll\n" + fresh.csr)
    assert refused(fresh.enroll, token, attestation_proof=proof).reason == "PROOF_INVALID"
    broken = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    proof = fresh.attestation.sign(b"animus-enroll\n" + broken)
    assert refused(fresh.enroll, token, tls_csr=broken, attestation_proof=proof).reason == "CSR_INVALID"
    assert refused(fresh.enroll, token, attestation_public_key=b"x").reason == "REQUEST_INVALID"
    fresh.enroll(token)


def test_a_name_is_given_once(world, project, fresh):
    fresh.token(projects=[project])
    assert refused(fresh.token, projects=[project]).reason == "AGENT_EXISTS"
    request = agent_pb2.CreateJoinTokenRequest(request_id=str(uuid.uuid4()))
    made = world.agents.CreateJoinToken(request, **world.as_user())
    assert made.agent.startswith("agents/agent-")
    assert refused(world.agents.CreateJoinToken, request, **world.as_user()).reason == "SECRET_ALREADY_SHOWN"


def test_the_enrolment_listener_serves_enrolment_alone_and_dispatch_only_agents(world, project, agent):
    node = agent()
    credentials = grpc.ssl_channel_credentials(world.pki.services.certificate_pem)
    options = [("grpc.ssl_target_name_override", f"orchestrator.{DOMAIN}")]
    port = world.dispatch.port("enrollment")
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        call = refused(stub.RenewCertificate, pb.RenewCertificateRequest(tls_csr=b"x"), timeout=5)
        assert call.code == "UNIMPLEMENTED"
    # A service's certificate does not open dispatch: it comes from the other CA.
    leaf = world.pki.leaf("service/catalog")
    chain, key, ca = leaf.read()
    with grpc.secure_channel(
        f"127.0.0.1:{node.port}", grpc.ssl_channel_credentials(ca, key, chain), options
    ) as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        call = refused(stub.RenewCertificate, pb.RenewCertificateRequest(tls_csr=node.csr), timeout=5)
        assert call.code == "UNAVAILABLE"


def renew(node: Agent, key: bytes, csr: bytes) -> bytes:
    with node.channel() as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        return stub.RenewCertificate(pb.RenewCertificateRequest(tls_csr=csr), timeout=15).tls_certificate


def test_current_and_next_certificate_are_good_until_the_next_is_used(world, project, agent):
    node = agent()
    old = (node.key, node.certificate)
    key, csr = pki.new_csr()
    first = renew(node, key, csr)
    assert renew(node, key, csr) == first, "the same key gets the same certificate"
    node.connect()  # with the old one, which is still good
    node.close()
    node.key, node.certificate = key, first
    node.connect()
    node.close()
    until(
        lambda: [e for e in world.events("orchestrator.agent.certificate-renewed") if e["resource"].endswith(node.name)]
    )
    node.key, node.certificate = old
    with node.channel() as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        error = refused(stub.RenewCertificate, pb.RenewCertificateRequest(tls_csr=csr), timeout=15)
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "CERTIFICATE_SUPERSEDED")
    shown = world.agents.GetAgent(agent_pb2.GetAgentRequest(name=f"agents/{node.name}"), **world.as_user())
    assert shown.certificate_expire_time.seconds > 0


def test_the_attestation_key_is_certified_again_before_its_time_is_over(world, project, agent):
    node = agent()
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE agents SET attestation_not_after = now() + interval '29 days' WHERE id = :i"),
            {"i": node.name},
        )
    renew(node, *pki.new_csr())
    (event,) = until(
        lambda: [e for e in world.events("orchestrator.agent.attestation-renewed") if e["resource"].endswith(node.name)]
    )
    payload, _ = dsse.verify(
        base64.b64decode(event["attestationCertificate"]),
        AttestationCertificate.NOUN,
        [world.pki.attestation.public_key()],
    )
    attested = AttestationCertificate.from_bytes(payload)
    assert attested.serial == 2
    assert pki.raw_public_key(attested.key()) == pki.raw_public_key(node.attestation.public_key())


def test_a_revoked_or_unknown_agent_is_not_let_in(world, project, agent):
    node = agent()
    node.connect()
    with world.engine.begin() as conn:
        conn.execute(sa.text("UPDATE agents SET revoked = true WHERE id = :i"), {"i": node.name})
    node.session.send(pb.AgentMessage(status=node.status()))
    assert from_rpc_error(node.session.wait_end()).reason == "AGENT_REVOKED"
    leaf = pki.sign_agent(world.pki.agents, pki.csr_public_key(node.csr), "ghost", DOMAIN, world.parts.clock.now())
    node.certificate = leaf
    with node.channel() as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        error = refused(stub.RenewCertificate, pb.RenewCertificateRequest(tls_csr=node.csr), timeout=15)
    assert error.reason == "AGENT_UNKNOWN"


class Accepting:
    """Stands in for Enrolment: what the limit lets through."""

    def enroll(self, request):
        return enrollment_pb2.EnrollResponse()


class From:
    """A call's context, as far as the limit looks at it."""

    def __init__(self, peer: str):
        self.peer = lambda: peer


def test_enrolment_is_slowed_down_for_the_address_that_asks():
    clock = FakeClock()
    service = EnrollmentService(Accepting(), clock)

    def ask(peer):
        return asyncio.run(service.Enroll(enrollment_pb2.EnrollRequest(), From(peer)))

    for port in range(int(BURST)):
        ask(f"ipv4:10.0.0.7:{port}")
    with pytest.raises(EnrollmentRate):
        ask("ipv4:10.0.0.7:1")
    ask("ipv4:10.0.0.8:1")
    clock.advance(1)
    ask("ipv4:10.0.0.7:1")


def test_addresses_that_enrolment_remembers_are_bounded(monkeypatch):
    monkeypatch.setattr(enrollment, "MAX_ADDRESSES", 3)
    service = EnrollmentService(None, FakeClock())
    for number in range(9):
        service._limit(f"10.0.0.{number}")
        service._limit("10.0.0.0")
    assert list(service._left) == ["10.0.0.7", "10.0.0.8", "10.0.0.0"]
    assert service._left["10.0.0.0"][0] == BURST - 10


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:53124", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:53124", "2001:db8:1:2::"),
        ("ipv6:[2001:db8:1:2::7]:53124", "2001:db8:1:2::"),
        ("ipv6:%5Bfe80::7%252%5D:53124", "fe80::"),
        ("ipv6:[::ffff:10.0.0.7]:53124", "10.0.0.7"),
        ("unix:/run/x", "unix"),
        ("", ""),
    ],
)
def test_a_peer_is_told_by_its_address(peer, address):
    assert address_of(peer) == address
