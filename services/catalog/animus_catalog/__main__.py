"""python -m animus_catalog serve | migrate | restored"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from animus.audit.v1 import ingest_pb2_grpc
from animus.catalog.v1 import (
    agent_blob_pb2_grpc,
    artifact_pb2_grpc,
    blob_pb2_grpc,
    code_pb2_grpc,
    dataset_pb2_grpc,
    environment_pb2_grpc,
    experiment_pb2_grpc,
    model_pb2_grpc,
    project_pb2_grpc,
    resolution_pb2_grpc,
)
from animus_catalog import permissions
from animus_catalog.blobs.contents import ContentReader
from animus_catalog.blobs.git_check import GitVerifier
from animus_catalog.blobs.grants import Grants, TrustedKeys, read_roots
from animus_catalog.blobs.janitor import Janitor
from animus_catalog.blobs.receive import Receiver, Threads
from animus_catalog.blobs.revocations import Revocations
from animus_catalog.blobs.staging import Staging
from animus_catalog.blobs.storage import StorageLimits
from animus_catalog.blobs.store import BlobStore
from animus_catalog.service.agent_blobs import AgentBlobService
from animus_catalog.service.artifacts import ArtifactService
from animus_catalog.service.blobs import BlobService
from animus_catalog.service.code import CodeService
from animus_catalog.service.datasets import DatasetService
from animus_catalog.service.environments import EnvironmentService
from animus_catalog.service.experiments import ExperimentService
from animus_catalog.service.models import ModelService
from animus_catalog.service.projects import Accessible, ProjectService
from animus_catalog.service.resolution import ResolutionService
from animus_catalog.settings import Settings
from animus_catalog.tail import agents, attempts, quotas
from animus_catalog.tail.attempts import Attempts
from animus_kit.channel import dial
from animus_kit.clock import Clock, SystemClock
from animus_kit.db.denials import Denials
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision
from animus_kit.db.sequencer import Sequencer
from animus_kit.db.tail import Apply, Event, Tail
from animus_kit.server import program
from animus_kit.server.authz import Rows
from animus_kit.server.door import Door
from animus_kit.server.program import Command
from animus_kit.server.serve import Process


def build(it: Settings, clock: Clock) -> Process:
    """The whole process, not yet started."""
    pool = it.workers + it.blob_workers + it.verifier_workers
    engine = create_engine(it.dsn, pool, application_name="catalog")
    check_revision(engine, "animus_catalog")
    access = it.policy_access(clock, it.workers)
    denials = Denials(engine, "catalog", clock)
    tokens, actor_key = it.verifier(clock), it.read_actor_key()

    def door(rows: Rows) -> Door:
        return Door("catalog", it.trust_domain, rows, tokens, access, denials, actor_key)

    process, staging = assemble(it, engine, clock, access, door)
    audit = dial(it.audit_target, "audit", it.tls, it.trust_domain)
    audit_stream = dial(it.audit_stream_target, "audit", it.tls, it.trust_domain)
    return process.task(
        Sequencer(it.dsn, "catalog", ingest_pb2_grpc.EventIngestServiceStub(audit)),
        Tail(
            "catalog",
            engine,
            ingest_pb2_grpc.EventTailServiceStub(audit_stream),
            _apply(Attempts(staging.remove)),
            attempts.TYPES + agents.TYPES + quotas.TYPES,
        ),
        denials,
    )


def _apply(ended: Attempts) -> Apply:
    def apply(conn: sa.Connection, event: Event) -> None:
        if event.type in agents.TYPES:
            agents.apply(conn, event)
        elif event.type in quotas.TYPES:
            quotas.apply(conn, event)
        else:
            ended.apply(conn, event)

    return apply


def assemble(
    it: Settings, engine: sa.Engine, clock: Clock, access: Accessible, door: Callable[[Rows], Door]
) -> tuple[Process, Staging]:
    """Listeners and services, without what reaches out to audit. door: makes the Door for a table of permissions."""
    blobs = BlobStore.open(it.blob_store)
    staging = Staging(blobs.staging_folder or it.staging_dir)
    contents = ContentReader(engine, blobs)
    verifier = GitVerifier(blobs, it.verifier_workers, it.verifier_snapshots)
    threads = Threads(it.blob_workers)
    receiver = Receiver(engine, blobs, staging, threads, clock)
    grants = Grants(TrustedKeys(it.trust_bundle, read_roots(it.root_key), it.trust_domain), clock)
    code = CodeService(engine, clock, contents, verifier)
    revocations = Revocations(engine, clock)
    limits = StorageLimits(engine, clock, threads)
    agent_blobs = AgentBlobService(engine, clock, blobs, contents, receiver, threads, grants, revocations, limits)
    process = Process("catalog", it.metrics_listen, it.reflection)
    process.sync(
        it.listen,
        it.tls,
        door(permissions.SYNC_ROWS),
        lambda s: project_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectService(engine, clock, access), s),
        lambda s: dataset_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(engine, clock, contents), s),
        lambda s: code_pb2_grpc.add_CodeServiceServicer_to_server(code, s),
        lambda s: environment_pb2_grpc.add_EnvironmentServiceServicer_to_server(
            EnvironmentService(engine, clock, contents), s
        ),
        lambda s: experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentService(engine, clock), s),
        lambda s: artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(engine), s),
        lambda s: model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(engine, clock), s),
        lambda s: resolution_pb2_grpc.add_ResolutionServiceServicer_to_server(ResolutionService(engine, contents), s),
        workers=it.workers,
    )
    process.aio(
        it.stream_listen,
        it.tls,
        door(permissions.STREAM_ROWS),
        lambda s: blob_pb2_grpc.add_BlobServiceServicer_to_server(
            BlobService(engine, clock, blobs, receiver, threads, limits), s
        ),
        name="stream",
    )
    process.aio(
        it.agent_blob_listen,
        it.agents_tls,
        door(permissions.AGENT_ROWS),
        lambda s: agent_blob_pb2_grpc.add_AgentBlobServiceServicer_to_server(agent_blobs, s),
        name="agents",
    )
    return process.task(Janitor(engine, staging, clock, timedelta(seconds=it.upload_keep))), staging


def main(arguments: list[str]) -> int:
    serve = Command(Settings, lambda it: build(it, SystemClock()).serve())
    commands = {"serve": ("catalog", serve), **program.of_database("catalog")}
    return program.run(__doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
