"""A whole orchestrator in one test process: both programs over real mTLS and PostgreSQL, with fakes of what it calls.

The fakes implement the same proto services; the agent is scripted and speaks on the real stream.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from animus.audit.v1 import ingest_pb2, ingest_pb2_grpc
from animus.catalog.v1 import resolution_pb2, resolution_pb2_grpc
from animus.orchestrator.v1 import (
    agent_pb2_grpc,
    pipeline_pb2,
    pipeline_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
    quota_pb2_grpc,
    run_pb2,
    run_pb2_grpc,
    run_stream_pb2_grpc,
)
from animus.policy.v1 import decision_pb2, decision_pb2_grpc
from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey
from animus_kit.ids import RandomIds
from animus_kit.server.authz import internal
from animus_kit.server.door import Door
from animus_kit.server.serve import Process
from animus_kit.settings import Duration
from animus_kit.tls import TlsFiles
from animus_orchestrator import wiring
from animus_orchestrator.settings import DispatchSettings, ServeSettings
from tests.orchestrator.fakes import FakeAccess, FakeAudit, FakeCatalog, FakePolicy, FakeVerifier
from tests.orchestrator.samples import bindings

DOMAIN = "animus.local"
DEADLINE = 15.0


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Waits for a condition with a deadline, and answers what it answered."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.01)


class Pki:
    """CAs, leaves and keys in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        now = datetime.now(UTC)
        self.services, self.agents = pki.new_ca("services", now), pki.new_ca("agents", now)
        self.contract, self.attestation, root = (pki.new_signing_key() for _ in range(3))
        for name, data in (
            ("services.pem", self.services.certificate_pem),
            ("agents.pem", self.agents.certificate_pem),
            ("agents.key", self.agents.key_pem),
            ("contract.key", pki.key_pem(self.contract)),
            ("attestation.key", pki.key_pem(self.attestation)),
            ("actor.key", b"k" * 32),
        ):
            (folder / name).write_bytes(data)
        bundle = TrustBundle(
            trust_domain=DOMAIN,
            sequence=1,
            issue_time=now,
            keys=tuple(
                TrustedKey.of(key.public_key(), purpose, now - pki.BACKDATE, now + pki.SERVICE_LIFETIME)
                for key, purpose in ((self.contract, "contract"), (self.attestation, "attestation"))
            ),
            services_ca=(self.services.certificate_pem.decode(),),
            agents_ca=(self.agents.certificate_pem.decode(),),
            witnesses=(),
        )
        (folder / "bundle.json").write_bytes(dsse.sign(bundle.to_bytes(), TrustBundle.NOUN, root))

    def leaf(self, path: str, ca: pki.CertificateAuthority | None = None) -> TlsFiles:
        name = path.replace("/", "-")
        dns = (f"{path.rsplit('/', 1)[-1]}.{DOMAIN}",)
        leaf = pki.issue_service(ca or self.services, path, dns, DOMAIN, datetime.now(UTC))
        (self.folder / f"{name}.pem").write_bytes(leaf.certificate_pem + self.services.certificate_pem)
        (self.folder / f"{name}.key").write_bytes(leaf.key_pem)
        return TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / "services.pem")


class World:
    """Start with `with World(database, folder) as world`."""

    def __init__(self, database: Any, folder: Path, **dispatch: Any):
        self.database = database
        self.pki = Pki(folder)
        self.access, self.catalog, self.policy, self.audit = FakeAccess(), FakeCatalog(), FakePolicy(), FakeAudit()
        self.dispatch_settings = dispatch
        self._channels: list[Any] = []

    def __enter__(self) -> World:
        self.engine = self.database.engine("orchestrator", 24)
        self.parts = wiring.Parts(self.engine, SystemClock(), RandomIds())
        self.neighbours = [
            self._neighbour("catalog", resolution_pb2_grpc.add_ResolutionServiceServicer_to_server, self.catalog),
            self._neighbour("policy", decision_pb2_grpc.add_DecisionPointServiceServicer_to_server, self.policy),
            self._neighbour("audit", ingest_pb2_grpc.add_EventIngestServiceServicer_to_server, self.audit),
        ]
        self.catalog_target, self.policy_target, self.audit_target = (
            f"127.0.0.1:{p.port('sync')}" for p in self.neighbours
        )
        self.tls = self.pki.leaf("service/orchestrator")
        common = {
            "dsn": self.database.dsn("orchestrator"),
            "tls_cert": self.tls.cert,
            "tls_key": self.tls.key,
            "tls_ca": self.tls.ca,
            "trust_domain": DOMAIN,
            "audit_target": self.audit_target,
        }
        self.common = common
        self.serve = self.start_serve()
        self.dispatch = self.start_dispatch()
        self.gateway = self.pki.leaf("gateway")
        channel = self._dial(self.serve.port("sync"), self.gateway)
        stream = self._dial(self.serve.port("stream"), self.gateway)
        # On a busy machine the first handshake may take its time, and be given up.
        for made in (channel, stream):
            grpc.channel_ready_future(made).result(60)
        self.pipelines = pipeline_pb2_grpc.PipelineServiceStub(channel)
        self.runs = run_pb2_grpc.RunServiceStub(channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self.quotas = quota_pb2_grpc.QuotaServiceStub(channel)
        self.pools = pool_pb2_grpc.PoolServiceStub(channel)
        self.streams = run_stream_pb2_grpc.RunStreamServiceStub(stream)
        return self

    def start_serve(self, **changes: Any) -> Process:
        values = {
            "listen": "127.0.0.1:0",
            "stream_listen": "127.0.0.1:0",
            "catalog_target": self.catalog_target,
            "policy_target": self.policy_target,
            "actor_key": self.pki.folder / "actor.key",
            "oidc_issuer": "test",
            "oidc_keys": "none",
        }
        settings = ServeSettings(**self.common, **{**values, **changes})
        process = wiring.build_serve(settings, self.parts, FakeVerifier(), self.access)
        process.grace = 1.0
        process.start()
        return process

    def channel(self, process: Process) -> grpc.Channel:
        """To the API of another process than `serve`, as the gateway."""
        return self._dial(process.port("sync"), self.gateway)

    def start_dispatch(self, **changes: Any) -> Process:
        folder = self.pki.folder
        values = {
            "listen": "127.0.0.1:0",
            "enrollment_listen": "127.0.0.1:0",
            "agents_ca": folder / "agents.pem",
            "agents_ca_key": folder / "agents.key",
            "contract_key": folder / "contract.key",
            "attestation_key": folder / "attestation.key",
            "trust_bundle": folder / "bundle.json",
            "dispatch_endpoint": "dispatch.test:1",
            "blob_endpoint": "blobs.test:2",
            "lease_duration": Duration(60),
            "lease_margin": Duration(15),
            "status_interval": Duration(10),
        }
        settings = DispatchSettings(**self.common, **{**values, **self.dispatch_settings, **changes})
        parts = wiring.Parts(self.database.engine("orchestrator", 8), SystemClock(), RandomIds())
        process = wiring.build_dispatch(settings, parts)
        process.grace = 1.0
        process.start()
        return process

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()
        for process in (self.dispatch, self.serve, *self.neighbours):
            process.stop()

    def _neighbour(self, name: str, add: Any, servicer: Any) -> Process:
        service = next(
            s.full_name
            for module in (resolution_pb2, decision_pb2, ingest_pb2)
            for s in module.DESCRIPTOR.services_by_name.values()
            if isinstance(servicer, _servicer(module, s.name))
        )
        methods = [m for m in dir(type(servicer)) if m[0].isupper()]
        rows = {f"/{service}/{m}": internal("orchestrator") for m in methods}
        process = Process(name)
        process.grace = 0.5
        process.sync(
            "127.0.0.1:0", self.pki.leaf(f"service/{name}"), Door(name, DOMAIN, rows), lambda s: add(servicer, s)
        )
        process.start()
        return process

    def _dial(self, port: int, tls: TlsFiles) -> grpc.Channel:
        channel = dial(f"127.0.0.1:{port}", "orchestrator", tls, DOMAIN)
        self._channels.append(channel)
        return channel

    # -- what people do -------------------------------------------------------------------------------------------

    def as_user(self, subject: str = "alice") -> dict[str, Any]:
        return {"metadata": [("authorization", f"Bearer {subject}")], "timeout": DEADLINE}

    def project(self) -> str:
        return f"projects/p{uuid.uuid4().hex[:10]}"

    def pool(self, name: str) -> str:
        """Makes a pool, if there is none of this name."""
        try:
            self.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id=name), **self.as_user())
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        return name

    def submit(self, project: str, document: bytes, **changes: Any) -> Any:
        """Makes pipeline, version and run; answers the run."""
        version = self.version(project, document)
        request = run_pb2.CreateRunRequest(
            parent=project, pipeline_version=version.name, bindings=bindings(project), request_id=str(uuid.uuid4())
        )
        for name, value in changes.items():
            if hasattr(value, "DESCRIPTOR"):
                getattr(request, name).CopyFrom(value)
            else:
                setattr(request, name, value)
        return self.runs.CreateRun(request, **self.as_user())

    def version(self, project: str, document: bytes, pipeline: str = "train") -> Any:
        try:
            self.pipelines.CreatePipeline(
                pipeline_pb2.CreatePipelineRequest(parent=project, pipeline_id=pipeline), **self.as_user()
            )
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        return self.pipelines.CreatePipelineVersion(
            pipeline_pb2.CreatePipelineVersionRequest(
                parent=f"{project}/pipelines/{pipeline}", document=document, media_type="application/yaml"
            ),
            **self.as_user(),
        )

    def run(self, name: str) -> Any:
        return self.runs.GetRun(run_pb2.GetRunRequest(name=name), **self.as_user())

    def steps(self, run: str) -> dict[str, Any]:
        found = self.runs.ListSteps(run_pb2.ListStepsRequest(parent=run), **self.as_user()).steps
        return {s.name.rsplit("/", 1)[1]: s for s in found}

    def state(self, run: str) -> str:
        return run_pb2.Run.State.Name(self.run(run).state).removeprefix("STATE_")

    def step_state(self, run: str, step: str) -> str:
        return run_pb2.Step.State.Name(self.steps(run)[step].state).removeprefix("STATE_")

    def events(self, prefix: str = "") -> list[dict[str, Any]]:
        """Payloads of what reached audit, with `resource`."""
        import json

        found = []
        for event in list(self.audit.events):
            payload, envelope = json.loads(event.payload), json.loads(event.envelope)
            if payload["eventType"].startswith(prefix):
                found.append({**payload, "resource": envelope["resource"], "by": envelope["actor"]})
        return found


def _servicer(module: Any, name: str) -> type:
    import importlib

    return getattr(importlib.import_module(module.__name__ + "_grpc"), f"{name}Servicer")
