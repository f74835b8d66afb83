"""Who may connect where: no plaintext but loopback metrics, no RPC but enrolment without a certificate, no stand-ins."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animus.agent.v1 import enrollment_pb2, enrollment_pb2_grpc
from animus.policy.v1 import access_pb2, access_pb2_grpc
from animus_cli.stack import processes, programs
from animus_cli.stack.layout import TRUST_DOMAIN, Layout
from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.tls import TlsFiles

# As /proc/net/tcp and tcp6 write 127.0.0.1, ::1 and ::ffff:127.0.0.1.
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
MTLS = (
    "catalog", "catalog-stream", "catalog-agent", "orchestrator", "orchestrator-stream", "dispatch", "policy",
    "lineage", "audit", "audit-stream",
)  # fmt: skip
FOR_AGENTS = ("catalog-agent", "dispatch")


def descendants(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))


def listening(layout: Layout) -> dict[tuple[str, int], str]:
    """(address, port) → process, of every TCP socket that a process of the stack listens on."""
    owners: dict[str, str] = {}
    for name in programs.ALL:
        found = processes.find(layout, name)
        assert found is not None, name
        for pid in descendants(found.pid):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    owners[target[8:-1]] = name
    found_sockets: dict[tuple[str, int], str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in owners:
                address, port = fields[1].split(":")
                found_sockets[address, int(port, 16)] = owners[fields[9]]
    return found_sockets


def speaks_tls(port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as secure:
            return secure.version() is not None
    except ssl.SSLError as error:
        # An alert is TLS too; a record of the wrong version is not.
        return "WRONG_VERSION_NUMBER" not in str(error)
    except OSError:
        return False


def test_nothing_listens_in_clear_but_metrics_on_loopback(layout: Layout) -> None:
    metrics = {port for name, port in layout.ports.items() if name.endswith("-metrics")}
    found = listening(layout)
    assert {port for _, port in found} >= {layout.ports[name] for name in (*MTLS, "gateway", "enrollment")}
    for (address, port), owner in found.items():
        assert address in LOOPBACK, f"{owner} listens beyond loopback"
        if port not in metrics:
            assert speaks_tls(port), f"{owner} listens in clear on port {port}"


@pytest.mark.parametrize("listener", MTLS)
def test_without_a_certificate_nothing_answers(layout: Layout, listener: str) -> None:
    credentials = grpc.ssl_channel_credentials(layout.services_ca.read_bytes())
    name = "orchestrator" if listener == "dispatch" else listener.partition("-")[0]
    options = [("grpc.ssl_target_name_override", f"{name}.{TRUST_DOMAIN}")]
    with grpc.secure_channel(layout.address(listener), credentials, options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_enrolment_answers_without_a_certificate_and_refuses_what_is_no_token(layout: Layout) -> None:
    credentials = grpc.ssl_channel_credentials(layout.services_ca.read_bytes())
    options = [("grpc.ssl_target_name_override", f"orchestrator.{TRUST_DOMAIN}")]
    _, csr = pki.new_csr()
    request = enrollment_pb2.EnrollRequest(
        token=f"animus1.x.{'0' * 64}.{'A' * 43}",
        tls_csr=csr,
        attestation_public_key=b"k" * 32,
        attestation_proof=b"p" * 64,
    )
    with grpc.secure_channel(layout.address("enrollment"), credentials, options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            enrollment_pb2_grpc.EnrollmentServiceStub(channel).Enroll(request, timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)


def own(layout: Layout, name: str, ca: Path) -> TlsFiles:
    certificate, key = layout.tls(name)
    return TlsFiles(certificate, key, ca)


def test_a_certificate_stands_for_its_own_service_only(layout: Layout) -> None:
    """Catalog's listener, dialled as policy, is refused by the client every service uses."""
    files = own(layout, "orchestrator", layout.services_ca)
    with dial(layout.address("catalog"), "policy", files, TRUST_DOMAIN) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            access_pb2_grpc.AccessServiceStub(channel).CheckAccess(
                access_pb2.CheckAccessRequest(subject="x", permission="a.b"), timeout=5
            )
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def agent(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """An agent's certificate, from the real agents' CA."""
    folder = tmp_path_factory.mktemp("agent")
    ca = pki.load_ca(layout.agents_ca.read_bytes(), (layout.pki / "agents-ca.key").read_bytes())
    key, csr = pki.new_csr()
    certificate = pki.sign_agent(ca, pki.csr_public_key(csr), "stranger", TRUST_DOMAIN, datetime.now(UTC))
    pki.write_private(folder / "key", key)
    pki.write_public(folder / "crt", certificate)
    return TlsFiles(folder / "crt", folder / "key", layout.services_ca)


@pytest.mark.parametrize("listener", MTLS)
def test_an_agents_certificate_reaches_dispatch_and_blobs_only(layout: Layout, agent: TlsFiles, listener: str) -> None:
    name = "orchestrator" if listener == "dispatch" else listener.partition("-")[0]
    with dial(layout.address(listener), name, agent, TRUST_DOMAIN) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        if listener in FOR_AGENTS:
            assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            return
        with pytest.raises(grpc.RpcError) as caught:
            check(health_pb2.HealthCheckRequest(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("listener", FOR_AGENTS)
def test_services_do_not_reach_the_agents_listeners(layout: Layout, listener: str) -> None:
    name = "orchestrator" if listener == "dispatch" else "catalog"
    with dial(layout.address(listener), name, own(layout, "audit", layout.services_ca), TRUST_DOMAIN) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_service_may_call_what_its_row_says_and_nothing_else(layout: Layout) -> None:
    request = access_pb2.CheckAccessRequest(subject="x", permission="catalog.projects.get")
    with dial(layout.address("policy"), "policy", own(layout, "catalog", layout.services_ca), TRUST_DOMAIN) as channel:
        assert not access_pb2_grpc.AccessServiceStub(channel).CheckAccess(request, timeout=5).allowed
    with dial(layout.address("policy"), "policy", own(layout, "gateway", layout.services_ca), TRUST_DOMAIN) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            access_pb2_grpc.AccessServiceStub(channel).CheckAccess(request, timeout=5)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_services_run_without_root(layout: Layout) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only then are there privileges to drop")
    for name in programs.CONTROL_PLANE:
        found = processes.find(layout, name)
        assert found is not None
        status = Path(f"/proc/{found.pid}/status").read_text()
        uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        assert uid != "0", f"{name} runs as root"
