"""The two programs, put together. `__main__` adds only settings and signals, and tests use the same functions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from cryptography import x509
from sqlalchemy import Engine

from animus.agent.v1 import dispatch_pb2_grpc, enrollment_pb2_grpc
from animus.audit.v1 import ingest_pb2_grpc
from animus.orchestrator.v1 import agent_pb2_grpc, pipeline_pb2_grpc, run_pb2_grpc, run_stream_pb2_grpc
from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.clock import Clock
from animus_kit.db.sequencer import Sequencer
from animus_kit.ids import Ids
from animus_kit.server.authz import Access, DenialSink
from animus_kit.server.door import Door
from animus_kit.server.serve import Process, Task
from animus_kit.server.token import TokenVerifier
from animus_orchestrator import permissions
from animus_orchestrator.clients import Catalog, Policy
from animus_orchestrator.dispatch.authority import AgentAuthority
from animus_orchestrator.dispatch.batcher import Batcher
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.enrolment import Endpoints, Enrolment
from animus_orchestrator.dispatch.links import Links
from animus_orchestrator.dispatch.reaper import Reaper
from animus_orchestrator.dispatch.writer import Limits, Writer
from animus_orchestrator.service.agents import AgentService
from animus_orchestrator.service.dispatch import DispatchService
from animus_orchestrator.service.enrollment import EnrollmentService
from animus_orchestrator.service.pipelines import PipelineService
from animus_orchestrator.service.run_stream import RunStreamService
from animus_orchestrator.service.runs import RunService
from animus_orchestrator.settings import Common, DispatchSettings, ServeSettings
from animus_orchestrator.store.listen import AGENT, LOGS, READY, RUN, SESSION, Hub

SERVICE = "orchestrator"


@dataclass(frozen=True)
class Parts:
    """What comes through the door."""

    engine: Engine
    clock: Clock
    ids: Ids


def serve_process(
    settings: ServeSettings,
    parts: Parts,
    *,
    verifier: TokenVerifier,
    access: Access,
    denials: DenialSink | None = None,
    tasks: Sequence[Task] = (),
) -> Process:
    """The API: a sync listener, and an aio listener for what streams."""
    process = Process(SERVICE, metrics_listen=settings.metrics_listen, reflection=settings.reflection)
    catalog = Catalog(dial(settings.catalog_target, "catalog", settings.tls, settings.trust_domain))
    policy = Policy(dial(settings.policy_target, "policy", settings.tls, settings.trust_domain))
    hub = Hub(settings.database_dsn, (RUN, LOGS))
    actor_key = settings.actor_key.read_bytes() if settings.actor_key else b""
    pin = pki.spki_pin(x509.load_pem_x509_certificate(settings.services_ca.read_bytes()))

    def door(rows: Any) -> Door:
        return Door(SERVICE, settings.trust_domain, rows, verifier, access, denials, actor_key)

    pipelines = PipelineService(parts.engine, parts.clock)
    runs = RunService(parts.engine, parts.clock, parts.ids, catalog, policy)
    agents = AgentService(parts.engine, parts.clock, parts.ids, pin)
    streams = RunStreamService(parts.engine, hub, process.drain)
    process.sync(
        settings.listen,
        settings.tls,
        door(permissions.API_ROWS),
        lambda server: pipeline_pb2_grpc.add_PipelineServiceServicer_to_server(pipelines, server),
        lambda server: run_pb2_grpc.add_RunServiceServicer_to_server(runs, server),
        lambda server: agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, server),
        workers=settings.workers,
    )
    process.aio(
        settings.stream_listen,
        settings.tls,
        door(permissions.STREAM_ROWS),
        lambda server: run_stream_pb2_grpc.add_RunStreamServiceServicer_to_server(streams, server),
        name="stream",
    )

    async def listen() -> None:
        hub.start()
        try:
            await asyncio.Event().wait()
        finally:
            await hub.close()

    process.coroutine(listen).task(*tasks, *_sequencer(settings))
    return process


def dispatch_process(settings: DispatchSettings, parts: Parts, tasks: Sequence[Task] = ()) -> Process:
    """Where agents connect. Several may run: each leases for the sessions it holds."""
    process = Process(SERVICE, metrics_listen=settings.metrics_listen)
    limits = Limits(
        lease=timedelta(seconds=settings.lease_duration),
        lease_margin=timedelta(seconds=settings.lease_margin),
        log_bytes=settings.log_limit_bytes,
    )
    interval = timedelta(seconds=settings.status_interval)
    contracts = Contracts(
        pki.load_signing_key(settings.contract_key.read_bytes()), parts.ids, limits.agent_lease
    )
    ca = pki.load_ca(settings.agents_ca.read_bytes(), settings.agents_ca_key.read_bytes())
    enrolment = Enrolment(
        parts.engine,
        AgentAuthority(ca, settings.trust_domain),
        pki.load_signing_key(settings.attestation_key.read_bytes()),
        settings.trust_bundle,
        Endpoints(
            settings.trust_domain,
            settings.services_ca.read_bytes(),
            settings.dispatch_endpoint,
            settings.blob_endpoint,
        ),
        parts.clock,
    )
    hub = Hub(settings.database_dsn, (READY, AGENT, SESSION))
    batcher: Batcher = Batcher(Writer(parts.engine, contracts, parts.clock, limits).apply)
    links = Links(batcher, hub)
    reaper = Reaper(parts.engine, parts.clock, limits.lease, silence=max(limits.lease, interval * 3))
    connect = DispatchService(batcher, links, enrolment, parts.clock, interval)
    enroll = EnrollmentService(enrolment, parts.clock)
    process.aio(
        settings.listen,
        settings.agents_tls,
        Door(SERVICE, settings.trust_domain, permissions.DISPATCH_ROWS),
        lambda server: dispatch_pb2_grpc.add_DispatchServiceServicer_to_server(connect, server),
        name="dispatch",
    )
    process.aio(
        settings.enrollment_listen,
        settings.tls,
        Door(SERVICE, settings.trust_domain, permissions.ENROLLMENT_ROWS),
        lambda server: enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(enroll, server),
        name="enrollment",
        require_client=False,
    )

    async def work() -> None:
        batcher.start()
        hub.start()
        links.start()
        reaper.start()
        try:
            await process.drain.wait()
            links.drain()
            await asyncio.Event().wait()
        finally:
            await links.close()
            await reaper.close()
            await hub.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(batcher.close(), 5)

    return process.coroutine(work).task(*tasks, *_sequencer(settings))


def _sequencer(settings: Common) -> list[Task]:
    """API and dispatch are one source: whichever process holds it delivers for both."""
    if not settings.audit_target:
        return []
    channel: grpc.Channel = dial(settings.audit_target, "audit", settings.tls, settings.trust_domain)
    stub = ingest_pb2_grpc.EventIngestServiceStub(channel)
    return [Sequencer(settings.database_dsn, SERVICE, stub)]
