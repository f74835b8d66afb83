"""Policy as a real process with mTLS, beside an audit that only says how many events it took."""

import pytest

from animus.policy.v1 import access_pb2_grpc, decision_pb2_grpc, role_binding_pb2_grpc
from animus_policy.__main__ import build
from animus_policy.settings import Settings
from tests.services import ADMINS, People, common


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> People:
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def process(database, pki, people):
    settings = Settings(
        **common("policy", database, pki, people),
        audit_target="127.0.0.1:1",
        policy_platform_admins=(f"group:{ADMINS}", "user:boss"),
    )
    process = build(settings)
    process.start()
    yield process
    process.grace = 0.5
    process.stop()


@pytest.fixture(scope="module")
def gateway(process, pki):
    with pki.dial(process, "sync", "gateway") as channel:
        yield channel


@pytest.fixture(scope="module")
def orchestrator(process, pki):
    with pki.dial(process, "sync", "service/orchestrator") as channel:
        yield channel


@pytest.fixture(scope="module")
def bindings(gateway):
    return role_binding_pb2_grpc.RoleBindingServiceStub(gateway)


@pytest.fixture(scope="module")
def decisions(gateway):
    return decision_pb2_grpc.DecisionServiceStub(gateway)


@pytest.fixture(scope="module")
def access(orchestrator):
    return access_pb2_grpc.AccessServiceStub(orchestrator)


@pytest.fixture(scope="module")
def point(orchestrator):
    return decision_pb2_grpc.DecisionPointServiceStub(orchestrator)
