"""Lineage, audit and policy as real processes with mTLS. Modules that use them say PACKAGES = ALL."""

import pytest

from animus.audit.v1 import ingest_pb2, ingest_pb2_grpc
from animus.lineage.v1 import graph_pb2_grpc
from animus_kit.documents.event import build_payload
from animus_lineage.__main__ import build as build_lineage
from animus_lineage.settings import Settings as LineageSettings
from tests.audit.events import Source
from tests.running import audit, bind, people, policy
from tests.services import common

__all__ = ["audit", "bind", "people", "policy"]


@pytest.fixture(scope="module")
def settings(database, pki, people, policy, audit) -> LineageSettings:
    return LineageSettings(
        **common("lineage", database, pki, people),
        policy_target=f"127.0.0.1:{policy.port('sync')}",
        audit_target=f"127.0.0.1:{audit.port('sync')}",
        audit_stream_target=f"127.0.0.1:{audit.port('aio')}",
    )


@pytest.fixture(scope="module")
def lineage(settings):
    process = build_lineage(settings)
    process.grace = 0.5
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def graph(lineage, pki):
    with pki.dial(lineage, "sync", "gateway") as channel:
        yield graph_pb2_grpc.GraphServiceStub(channel)


@pytest.fixture(scope="module")
def tell(audit, pki):
    """tell(event type, project, resource, payload) puts an event into the log and returns its index."""
    sources = {name: Source(name) for name in ("catalog", "orchestrator")}
    with (
        pki.dial(audit, "sync", "service/catalog") as catalog,
        pki.dial(audit, "sync", "service/orchestrator") as orchestrator,
    ):
        stubs = {
            "catalog": ingest_pb2_grpc.EventIngestServiceStub(catalog),
            "orchestrator": ingest_pb2_grpc.EventIngestServiceStub(orchestrator),
        }

        def append(event_type: str, project: str, resource: str, body: dict, payload: bytes | None = None) -> int:
            name = event_type.partition(".")[0]
            source = sources[name]
            events = source.next(
                1,
                event_type=event_type,
                project=project,
                resource=resource,
                payload=payload or build_payload(event_type, body),
            )
            request = ingest_pb2.AppendEventsRequest(generation=source.generation, events=events)
            return stubs[name].AppendEvents(request).log_size - 1

        yield append
