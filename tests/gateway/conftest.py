"""A real Envoy in front of a tiny catalog with real mTLS, on ports of this test's own."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.api import httpbody_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from animus.catalog.v1 import blob_pb2, blob_pb2_grpc, project_pb2, project_pb2_grpc
from animus_client.issuer import LocalIssuer
from animus_kit import pki
from animus_kit.tls import TlsFiles, server_credentials

TRUST_DOMAIN = "gateway.test"
DETAILS = "grpc-status-details-bin"


class Projects(project_pb2_grpc.ProjectServiceServicer):
    """Answers what its caller sent, so that tests see what the gateway made of it."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []

    def GetProject(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        if request.name == "projects/absent":
            status = status_pb2.Status(code=5, message="no such project")
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason="PROJECT_NOT_FOUND", domain="catalog.animus"))
            context.set_trailing_metadata([(DETAILS, status.SerializeToString())])
            context.abort(grpc.StatusCode.NOT_FOUND, "no such project")
        return project_pb2.Project(name=request.name)

    def ListProjects(self, request, context):
        return project_pb2.ListProjectsResponse(projects=[project_pb2.Project(name=f"projects/p{request.page_size}")])

    def CreateProject(self, request, context):
        request.project.name = f"projects/{request.project_id}"
        return request.project

    def ArchiveProject(self, request, context):
        return project_pb2.Project(name=request.name)


class Blobs(blob_pb2_grpc.BlobServiceServicer):
    def DownloadBlob(self, request, context):
        for _ in range(40):
            yield httpbody_pb2.HttpBody(content_type="application/octet-stream", data=b"x" * 65536)

    def UploadBlob(self, request_iterator, context):
        return blob_pb2.Blob(size_bytes=sum(len(r.body.data) for r in request_iterator))


@dataclass
class Gateway:
    port: int
    ca: Path
    issuer: LocalIssuer
    projects: Projects
    folder: Path

    def token(self, **claims: Any) -> str:
        return self.issuer.token(claims.pop("subject", "ann"), datetime.now(UTC), **claims)

    def call(
        self, method: str, path: str, body: bytes | None = None, token: str | None = "", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """token: "" for a good one, None for none."""
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["authorization"] = f"Bearer {token or self.token()}"
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def write_pki(folder: Path) -> pki.CertificateAuthority:
    now = datetime.now(UTC)
    ca = pki.new_ca("services", now)
    pki.write_public(folder / "ca.crt", ca.certificate_pem)
    for name, path in (("gateway", "gateway"), ("catalog", "service/catalog"), ("policy", "service/policy")):
        leaf = pki.issue_service(
            ca, path, (f"{name}.{TRUST_DOMAIN}", "localhost"), TRUST_DOMAIN, now, addresses=("127.0.0.1",)
        )
        pki.write_public(folder / f"{name}.crt", leaf.certificate_pem)
        pki.write_private(folder / f"{name}.key", leaf.key_pem)
    return ca


def settings_file(folder: Path, upstreams: dict[str, list[str]], issuer: LocalIssuer, port: int, **more: Any) -> Path:
    (folder / "jwks.json").write_bytes(issuer.jwks())
    content = {
        "listen": f"127.0.0.1:{port}",
        "trust_domain": TRUST_DOMAIN,
        "upstreams": upstreams,
        "tls": {
            "certificate": "gateway.crt", "key": "gateway.key", "client_certificate": "gateway.crt",
            "client_key": "gateway.key", "services_ca": "ca.crt",
        },
        "tokens": {"issuer": issuer.issuer, "audience": issuer.audience, "jwks": "jwks.json"},
        "folder": "run",
        **more,
    }  # fmt: skip
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


UPSTREAMS = (
    "audit", "audit-stream", "catalog", "catalog-stream", "lineage", "orchestrator", "orchestrator-stream", "policy",
)  # fmt: skip


@pytest.fixture(scope="package")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gw")
    write_pki(folder)
    issuer = LocalIssuer.generate("https://issuer.test", "animus")
    projects = Projects()
    server = grpc.server(ThreadPoolExecutor(8))
    project_pb2_grpc.add_ProjectServiceServicer_to_server(projects, server)
    blob_pb2_grpc.add_BlobServiceServicer_to_server(Blobs(), server)
    alive = health.HealthServicer()
    alive.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    credentials = server_credentials(TlsFiles(folder / "catalog.crt", folder / "catalog.key", folder / "ca.crt"))
    upstream = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    # policy points at catalog's listener: another identity than its own answers there.
    upstreams = {name: [f"127.0.0.1:{upstream}"] for name in UPSTREAMS}
    port = free_port()
    path = settings_file(folder, upstreams, issuer, port, limits={"per_subject": 50}, cors_origins=["https://app.test"])
    log = (folder / "log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "animus_gateway", "run", path], stdout=log, stderr=log)
    found = Gateway(port, folder / "ca.crt", issuer, projects, folder)
    try:
        _wait(found, process)
        yield found
    finally:
        process.terminate()
        assert process.wait(20) == 0
        server.stop(None)


def _wait(found: Gateway, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            status, _, _ = found.call("GET", "/catalog/v1/projects/up")
            if status == 200:
                return
        except OSError:
            pass
        text = (found.folder / "log").read_text()[-3000:]
        assert process.poll() is None and time.monotonic() < deadline, text
        time.sleep(0.05)


def status_of(body: bytes) -> tuple[int, str]:
    """(code, reason) of the one error shape, which is checked on the way."""
    found = json.loads(body)
    assert set(found) == {"code", "message", "details"}, found
    infos = [d for d in found["details"] if d["@type"].endswith("/google.rpc.ErrorInfo")]
    assert len(infos) == 1, found
    return found["code"], infos[0]["reason"]
