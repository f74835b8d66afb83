"""Lineage, audit and policy as real processes with mTLS. Modules that use them say PACKAGES = ALL."""

import pytest

from animus.audit.v1 import ingest_pb2, ingest_pb2_grpc
from animus.lineage.v1 import graph_pb2_grpc
from animus.policy.v1 import role_binding_pb2, role_binding_pb2_grpc
from animus_audit.__main__ import build as build_audit
from animus_audit.settings import Settings as AuditSettings
from animus_kit.documents.event import build_payload
from animus_lineage.__main__ import build as build_lineage
from animus_lineage.settings import Settings as LineageSettings
from animus_policy.__main__ import build as build_policy
from animus_policy.settings import Settings as PolicySettings
from tests.audit.events import Source
from tests.services import ADMINS, People, common


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> People:
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def policy(database, pki, people):
    settings = PolicySettings(
        **common("policy", database, pki, people),
        audit_target="127.0.0.1:1",
        policy_platform_admins=(f"group:{ADMINS}",),
    )
    process = build_policy(settings)
    process.grace = 0.5
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def audit(database, pki, people, policy):
    settings = AuditSettings(
        **common("audit", database, pki, people),
        stream_listen="127.0.0.1:0",
        policy_target=f"127.0.0.1:{policy.port('sync')}",
    )
    process = build_audit(settings)
    process.grace = 0.5
    process.start()
    yield process
    process.stop()


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
def bind(policy, pki, people):
    with pki.dial(policy, "sync", "gateway") as channel:
        stub = role_binding_pb2_grpc.RoleBindingServiceStub(channel)

        def give(project: str, member: str, role: int) -> None:
            binding = role_binding_pb2.RoleBinding(member=member, role=role)
            request = role_binding_pb2.CreateRoleBindingRequest(parent=project, role_binding=binding)
            stub.CreateRoleBinding(request, metadata=people.root)

        yield give


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
