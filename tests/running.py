"""Policy and audit as real processes with mTLS, for the tests of several services."""

import pytest

from animus.policy.v1 import role_binding_pb2, role_binding_pb2_grpc
from animus_audit.__main__ import build as build_audit
from animus_audit.settings import Settings as AuditSettings
from animus_policy.__main__ import build as build_policy
from animus_policy.settings import Settings as PolicySettings
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
def bind(policy, pki, people):
    """bind("projects/p", "user:alice", AUDITOR) gives a role."""
    with pki.dial(policy, "sync", "gateway") as channel:
        stub = role_binding_pb2_grpc.RoleBindingServiceStub(channel)

        def give(project: str, member: str, role: int) -> None:
            binding = role_binding_pb2.RoleBinding(member=member, role=role)
            request = role_binding_pb2.CreateRoleBindingRequest(parent=project, role_binding=binding)
            stub.CreateRoleBinding(request, metadata=people.root)

        yield give
