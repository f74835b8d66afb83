"""The two programs, put together. `__main__` adds only settings and signals; tests build the same processes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import Engine

from animus.agent.v1 import dispatch_pb2_grpc, enrollment_pb2_grpc
from animus.audit.v1 import ingest_pb2_grpc
from animus.orchestrator.v1 import (
    agent_pb2_grpc,
    pipeline_pb2_grpc,
    pool_pb2_grpc,
    quota_pb2_grpc,
    run_pb2_grpc,
    run_stream_pb2_grpc,
)
from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.clock import Clock
from animus_kit.db.denials import Denials
from animus_kit.db.sequencer import Sequencer
from animus_kit.ids import Ids
from animus_kit.server.authz import Access
from animus_kit.server.door import Door
from animus_kit.server.serve import WORKERS, Process, Task
from animus_kit.server.token import TokenVerifier
from animus_orchestrator import permissions
from animus_orchestrator.clients import Catalog, Policy
from animus_orchestrator.dispatch.authority import AgentAuthority
from animus_orchestrator.dispatch.batcher import Batcher
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.diagnostics import Diagnostics
from animus_orchestrator.dispatch.enrolment import Endpoints, Enrolment
from animus_orchestrator.dispatch.links import Links
from animus_orchestrator.dispatch.reaper import Reaper
from animus_orchestrator.dispatch.work import Open
from animus_orchestrator.dispatch.writer import Limits, Writer
from animus_orchestrator.service.agents import AgentService
from animus_orchestrator.service.dispatch import DispatchService
from animus_orchestrator.service.enrollment import EnrollmentService
from animus_orchestrator.service.outlook import Outlook
from animus_orchestrator.service.pipelines import PipelineService
from animus_orchestrator.service.pools import PoolService
from animus_orchestrator.service.quotas import QuotaService
from animus_orchestrator.service.run_stream import READERS, RunStreamService
from animus_orchestrator.service.runs import RunService
from animus_orchestrator.settings import DispatchSettings, ServeSettings
from animus_orchestrator.store.listen import AGENT, LOGS, READY, RUN, SESSION, Hub

SERVICE = "orchestrator"
SERVE_POOL = WORKERS + READERS
DISPATCH_POOL = 8


@dataclass(frozen=True)
class Parts:
    """What comes through the door."""

    engine: Engine
    clock: Clock
    ids: Ids


def build_serve(it: ServeSettings, parts: Parts, verifier: TokenVerifier, access: Access) -> Process:
    """The API: a sync listener, and an aio listener for what streams."""
    process = Process(SERVICE, it.metrics_listen, it.reflection)
    catalog = Catalog(dial(it.catalog_target, "catalog", it.tls, it.trust_domain))
    policy = Policy(dial(it.policy_target, "policy", it.tls, it.trust_domain))
    denials = Denials(parts.engine, SERVICE, parts.clock)
    hub = Hub(it.dsn, (RUN, LOGS))
    pin = pki.spki_pin(x509.load_pem_x509_certificate(it.tls_ca.read_bytes()))

    def door(rows: Any) -> Door:
        return Door(SERVICE, it.trust_domain, rows, verifier, access, denials, it.read_actor_key())

    pipelines = PipelineService(parts.engine, parts.clock)
    outlook = Outlook(parts.clock)
    runs = RunService(parts.engine, parts.clock, parts.ids, catalog, policy, access, denials, outlook)
    quotas = QuotaService(parts.engine, parts.clock, catalog.stored_bytes)
    pools = PoolService(parts.engine, parts.clock)
    agents = AgentService(parts.engine, parts.clock, parts.ids, pin)
    streams = RunStreamService(parts.engine, hub, process.drain, outlook)
    process.sync(
        it.listen,
        it.tls,
        door(permissions.API_ROWS),
        lambda s: pipeline_pb2_grpc.add_PipelineServiceServicer_to_server(pipelines, s),
        lambda s: run_pb2_grpc.add_RunServiceServicer_to_server(runs, s),
        lambda s: quota_pb2_grpc.add_QuotaServiceServicer_to_server(quotas, s),
        lambda s: pool_pb2_grpc.add_PoolServiceServicer_to_server(pools, s),
        lambda s: agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, s),
    )
    process.aio(
        it.stream_listen,
        it.tls,
        door(permissions.STREAM_ROWS),
        lambda s: run_stream_pb2_grpc.add_RunStreamServiceServicer_to_server(streams, s),
        name="stream",
    )

    async def listen() -> None:
        hub.start()
        try:
            await asyncio.Event().wait()
        finally:
            await hub.close()

    return process.coroutine(listen).task(denials, _sequencer(it))


def build_dispatch(it: DispatchSettings, parts: Parts) -> Process:
    """Where agents connect. Several may run: each leases for the sessions it holds."""
    process = Process(SERVICE, it.metrics_listen)
    limits = Limits(
        lease=timedelta(seconds=it.lease_duration),
        lease_margin=timedelta(seconds=it.lease_margin),
        log_bytes=it.log_limit_bytes,
        reserve_after=timedelta(seconds=it.reserve_after),
    )
    interval = timedelta(seconds=it.status_interval)
    contracts = Contracts(pki.load_signing_key(it.contract_key.read_bytes()), parts.ids, limits.agent_lease)
    ca = pki.load_ca(it.agents_ca.read_bytes(), it.agents_ca_key.read_bytes())
    enrolment = Enrolment(
        parts.engine,
        AgentAuthority(ca, it.trust_domain),
        pki.load_signing_key(it.attestation_key.read_bytes()),
        it.trust_bundle,
        Endpoints(it.trust_domain, it.tls_ca.read_bytes(), it.dispatch_endpoint, it.blob_endpoint),
        parts.clock,
    )
    hub = Hub(it.dsn, (READY, AGENT, SESSION))
    writer = Writer(parts.engine, contracts, parts.clock, limits)
    # A session for a stream that is gone would fence the one that the agent opened since, perhaps elsewhere.
    batcher: Batcher = Batcher(writer.apply, void=lambda work: isinstance(work, Open))
    links = Links(batcher, hub)
    reaper = Reaper(parts.engine, parts.clock, limits.lease, silence=max(limits.lease, interval * 3))
    diagnostics = Diagnostics(parts.engine, parts.clock)
    denials = Denials(parts.engine, SERVICE, parts.clock)
    connect = DispatchService(batcher, links, enrolment, diagnostics, parts.clock, interval)
    enroll = EnrollmentService(enrolment, parts.clock)
    process.aio(
        it.listen,
        it.agents_tls,
        Door(SERVICE, it.trust_domain, permissions.DISPATCH_ROWS, denials=denials),
        lambda s: dispatch_pb2_grpc.add_DispatchServiceServicer_to_server(connect, s),
        name="dispatch",
        # One for each agent for ever, and room for those that come back before the old one is seen to be dead.
        streams=20_000,
    )
    process.aio(
        it.enrollment_listen,
        it.tls,
        Door(SERVICE, it.trust_domain, permissions.ENROLLMENT_ROWS),
        lambda s: enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(enroll, s),
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

    return process.coroutine(work).task(denials, _sequencer(it))


def _sequencer(it: ServeSettings | DispatchSettings) -> Task:
    """API and dispatch are one source: whichever process holds it delivers for both."""
    channel = dial(it.audit_target, "audit", it.tls, it.trust_domain)
    return Sequencer(it.dsn, SERVICE, ingest_pb2_grpc.EventIngestServiceStub(channel))
