"""The process as operators start it: settings, real tokens, and what it does when its neighbours are away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jose import jwk, jwt

from animus.catalog.v1 import project_pb2, project_pb2_grpc
from animus_catalog.__main__ import build, main
from animus_catalog.settings import Settings
from animus_kit import settings as kit_settings
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.db.migrate import RevisionMismatch
from animus_kit.testing.pki import TRUST_DOMAIN
from tests.catalog.waiting import until
from tests.catalog.world import Refusal

ISSUER = "https://issuer.test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def environ(database, pki, trust, tmp_path) -> dict[str, str]:
    files, agents = pki.files("service/catalog"), pki.files("service/catalog", accept="agents")
    (tmp_path / "actor.key").write_bytes(os.urandom(32))
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    entry = {**jwk.construct(public.decode(), "ES256").to_dict(), "kid": "k1", "alg": "ES256", "use": "sig"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [entry]}))
    (tmp_path / "issuer.pem").write_bytes(private)
    nowhere = f"127.0.0.1:{free_port()}"
    return {
        "ANIMUS_DSN": database.dsn("catalog"),
        "ANIMUS_TLS_CERT": str(files.cert),
        "ANIMUS_TLS_KEY": str(files.key),
        "ANIMUS_TLS_CA": str(files.ca),
        "ANIMUS_AGENTS_CA": str(agents.ca),
        "ANIMUS_ACTOR_KEY": str(tmp_path / "actor.key"),
        "ANIMUS_OIDC_ISSUER": ISSUER,
        "ANIMUS_OIDC_KEYS": str(tmp_path / "jwks.json"),
        "ANIMUS_POLICY_TARGET": nowhere,
        "ANIMUS_AUDIT_TARGET": nowhere,
        "ANIMUS_AUDIT_STREAM_TARGET": nowhere,
        "ANIMUS_LISTEN": f"127.0.0.1:{free_port()}",
        "ANIMUS_STREAM_LISTEN": f"127.0.0.1:{free_port()}",
        "ANIMUS_AGENT_BLOB_LISTEN": f"127.0.0.1:{free_port()}",
        "ANIMUS_BLOB_STORE": f"file://{tmp_path}/blobs",
        "ANIMUS_TRUST_BUNDLE": str(trust.bundle),
        "ANIMUS_ROOT_KEY": str(trust.root),
    }


def token(tmp_path) -> str:
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": ISSUER, "aud": "animus", "sub": "alice", "iat": now, "nbf": now, "exp": now + 300}
    headers = {"kid": "k1", "typ": "at+jwt"}
    return jwt.encode(claims, (tmp_path / "issuer.pem").read_text(), algorithm="ES256", headers=headers)


def get_project(channel, metadata=()):
    stub = project_pb2_grpc.ProjectServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetProject(project_pb2.GetProjectRequest(name="projects/p"), metadata=metadata, timeout=15)
    return Refusal(caught.value)


def test_a_process_serves_drains_and_ends(environ, pki, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "animus_catalog", "serve"],
        env={"PATH": os.environ["PATH"], **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        channel = dial(environ["ANIMUS_LISTEN"], "catalog", pki.files("gateway"), TRUST_DOMAIN)
        health = health_pb2_grpc.HealthStub(channel)

        def serving():
            assert process.poll() is None, process.stderr.read()
            try:
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=1).status
            except grpc.RpcError:
                return False
            return status == health_pb2.HealthCheckResponse.SERVING

        until(serving, "the catalog serves", 20)
        assert get_project(channel).reason == "TOKEN_MISSING"
        assert get_project(channel, [("authorization", "Bearer x.y.z")]).reason == "TOKEN_INVALID"
        # Nobody can tell whether alice may: that is no allow.
        answer = get_project(channel, [("authorization", f"Bearer {token(tmp_path)}")])
        assert (answer.code, answer.reason) == ("UNAVAILABLE", "POLICY_UNAVAILABLE")
        channel.close()
    finally:
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert time.monotonic() - started < 15
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert {"serving", "draining"} <= {line["message"] for line in lines}


def test_all_that_is_wrong_with_the_settings_is_told(environ):
    del environ["ANIMUS_DSN"]
    environ |= {"ANIMUS_WORKERS": "many", "ANIMUS_CATALOG_TYPO": "1"}
    with pytest.raises(kit_settings.SettingsError) as caught:
        kit_settings.load(Settings, environ)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {
        "ANIMUS_DSN",
        "ANIMUS_WORKERS",
        "ANIMUS_CATALOG_TYPO",
    }


def test_a_bucket_needs_a_staging_folder(environ):
    with pytest.raises(kit_settings.SettingsError, match="ANIMUS_STAGING_DIR"):
        kit_settings.load(Settings, environ | {"ANIMUS_BLOB_STORE": "s3://bucket"})


def test_a_database_that_was_not_migrated_is_refused(environ, postgres):
    empty = postgres.database(())
    try:
        environ["ANIMUS_DSN"] = empty.dsn("catalog")
        with pytest.raises(RevisionMismatch):
            build(kit_settings.load(Settings, environ), SystemClock())
    finally:
        empty.drop()


def test_another_command_is_explained(capsys):
    assert main(["rebuild"]) == 2
    assert capsys.readouterr().err == "python -m animus_catalog serve | migrate | restored\n"
