"""Certificates carry what they should and nothing more, and peers are named by them alone."""

from __future__ import annotations

import base64
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.tls import NOBODY, Peer, TlsFiles, peer_identity, server_credentials

NOW = datetime.now(UTC)
DOMAIN = "animus.test"


def write(folder: Path, leaf: pki.Leaf, ca: pki.CertificateAuthority) -> TlsFiles:
    pki.write_public(folder / "tls.crt", leaf.certificate_pem)
    pki.write_private(folder / "tls.key", leaf.key_pem)
    pki.write_public(folder / "ca.crt", ca.certificate_pem)
    return TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def service(ca: pki.CertificateAuthority, name: str) -> pki.Leaf:
    return pki.issue_service(ca, f"service/{name}", (f"{name}.{DOMAIN}",), DOMAIN, NOW)


@pytest.fixture(scope="module")
def services_ca() -> pki.CertificateAuthority:
    return pki.new_ca("services", NOW)


@pytest.fixture(scope="module")
def agents_ca() -> pki.CertificateAuthority:
    return pki.new_ca("agents", NOW)


class Whoami(grpc.GenericRpcHandler):
    """Answers every call with the peer it saw."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            peer = peer_identity(context.auth_context(), DOMAIN)
            return (peer.label if peer else "refused").encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def serve(tmp_path: Path, services_ca: pki.CertificateAuthority):
    servers = []

    def start(leaf: pki.Leaf, accepts: pki.CertificateAuthority) -> tuple[int, TlsFiles]:
        files = write(tmp_path / f"server{len(servers)}", leaf, accepts)
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Whoami()])
        port = server.add_secure_port("127.0.0.1:0", server_credentials(files))
        server.start()
        servers.append(server)
        return port, files

    yield start
    for server in servers:
        server.stop(None).wait()


def whoami(port: int, name: str, files: TlsFiles) -> str:
    with dial(f"127.0.0.1:{port}", name, files, DOMAIN, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return channel.unary_unary("/test/Whoami")(b"", timeout=10).decode()


def test_a_service_is_known_by_its_certificate(tmp_path, serve, services_ca) -> None:
    port, _ = serve(service(services_ca, "catalog"), services_ca)
    client = write(tmp_path / "client", service(services_ca, "orchestrator"), services_ca)
    assert whoami(port, "catalog", client) == "service/orchestrator"


def test_a_service_cannot_stand_in_for_another(tmp_path, serve, services_ca) -> None:
    port, _ = serve(service(services_ca, "catalog"), services_ca)
    client = write(tmp_path / "client", service(services_ca, "orchestrator"), services_ca)
    with pytest.raises(grpc.RpcError) as caught:
        whoami(port, "policy", client)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_each_listener_accepts_one_ca(tmp_path, serve, services_ca, agents_ca) -> None:
    key, csr = pki.new_csr()
    certificate = pki.sign_agent(agents_ca, pki.csr_public_key(csr), "node-1", DOMAIN, NOW)
    agent = pki.Leaf(certificate, key)
    client = write(tmp_path / "agent", agent, services_ca)
    port, _ = serve(service(services_ca, "catalog"), services_ca)
    with pytest.raises(grpc.RpcError):
        whoami(port, "catalog", client)
    port, _ = serve(service(services_ca, "catalog"), agents_ca)
    assert whoami(port, "catalog", client) == "agent/node-1"
    with pytest.raises(grpc.RpcError):
        whoami(port, "catalog", write(tmp_path / "svc", service(services_ca, "policy"), services_ca))


def test_an_agent_cannot_serve(tmp_path, serve, services_ca, agents_ca) -> None:
    key, csr = pki.new_csr()
    leaf = pki.Leaf(pki.sign_agent(agents_ca, pki.csr_public_key(csr), "node-1", DOMAIN, NOW), key)
    port, _ = serve(leaf, agents_ca)
    client = write(tmp_path / "client", service(agents_ca, "catalog"), agents_ca)
    with pytest.raises(grpc.RpcError):
        whoami(port, "node-1", client)


def test_a_replaced_certificate_is_served_without_a_restart(tmp_path, serve, services_ca) -> None:
    port, files = serve(service(services_ca, "catalog"), services_ca)
    client = write(tmp_path / "client", service(services_ca, "lineage"), services_ca)
    assert whoami(port, "catalog", client) == "service/lineage"
    renamed = service(services_ca, "policy")
    files.key.unlink()  # a half-done rotation keeps the last good pair
    assert whoami(port, "catalog", client) == "service/lineage"
    pki.write_public(files.cert, renamed.certificate_pem)
    pki.write_private(files.key, renamed.key_pem)
    assert whoami(port, "policy", client) == "service/lineage"


def test_an_agents_certificate_has_no_dns_name_and_cannot_serve(agents_ca) -> None:
    _, csr = pki.new_csr()
    certificate = x509.load_pem_x509_certificate(
        pki.sign_agent(agents_ca, pki.csr_public_key(csr), "node-1", DOMAIN, NOW)
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"spiffe://{DOMAIN}/agent/node-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    "csr", [b"", b"not pem", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_a_malformed_request_is_refused(csr: bytes) -> None:
    with pytest.raises(pki.PkiError):
        pki.csr_public_key(csr)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("06072a8648ce3d0201", "06072a8648ce3d0263"),  # id-ecPublicKey
        ("06082a8648ce3d030107", "06082a8648ce3d030163"),  # prime256v1
        ("06082a8648ce3d030107", "06082a8648ce3d030101"),  # prime192v1
        ("06082a8648ce3d040302", "06082a8648ce3d040363"),  # ecdsa-with-SHA256
        ("0201003000", "0201013000"),  # the version, before the empty subject
    ],
)
def test_a_request_of_another_kind_is_refused(was: str, becomes: str) -> None:
    _, csr = pki.new_csr()
    der = x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER)
    altered = base64.encodebytes(der.replace(bytes.fromhex(was), bytes.fromhex(becomes), 1))
    with pytest.raises(pki.PkiError):
        pki.csr_public_key(b"-----BEGIN CERTIFICATE REQUEST-----\n" + altered + b"-----END CERTIFICATE REQUEST-----\n")


def test_a_ca_with_a_foreign_key_is_refused(services_ca, agents_ca) -> None:
    with pytest.raises(pki.PkiError):
        pki.load_ca(services_ca.certificate_pem, agents_ca.key_pem)
    assert pki.load_ca(services_ca.certificate_pem, services_ca.key_pem).pin == services_ca.pin


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([f"spiffe://{DOMAIN}/gateway"], Peer("gateway", "", f"spiffe://{DOMAIN}/gateway")),
        ([f"spiffe://{DOMAIN}/service/audit"], Peer("service", "audit", f"spiffe://{DOMAIN}/service/audit")),
        (["spiffe://elsewhere/service/audit"], None),
        ([f"spiffe://{DOMAIN}/service/"], None),
        ([f"spiffe://{DOMAIN}/service/a/b"], None),
        ([f"spiffe://{DOMAIN}/gateway/x"], None),
        ([f"spiffe://{DOMAIN}/robot/x"], None),
        ([f"spiffe://{DOMAIN}/gateway", f"spiffe://{DOMAIN}/service/audit"], None),
        ([], None),
    ],
)
def test_identities_are_read_strictly(ids: list[str], expected: Peer | None) -> None:
    context = {"x509_pem_cert": [b""], "peer_spiffe_id": [value.encode() for value in ids]}
    assert peer_identity(context, DOMAIN) == expected


def test_no_certificate_is_nobody() -> None:
    assert peer_identity({}, DOMAIN) is NOBODY


def test_private_files_are_private(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "a" / "key", b"secret")
    assert (tmp_path / "a" / "key").stat().st_mode & 0o777 == 0o600
