"""What travels with a call to another process, and how many may wait for one."""

import threading

import grpc
import pytest
import sqlalchemy as sa

from animus.policy.v1 import role_binding_pb2 as pb
from animus.policy.v1 import role_binding_pb2_grpc
from animus_kit import trace
from animus_kit.db.engine import transaction
from animus_kit.server.authz import Row, internal, no_project
from animus_kit.server.context import current
from animus_kit.server.door import Door
from animus_kit.server.serve import Process
from animus_kit.status import from_rpc_error

PACKAGES = ()
PREFIX = "/animus.policy.v1.RoleBindingService/"
METHODS = ("GetRoleBinding", "ListRoleBindings", "CreateRoleBinding", "DeleteRoleBinding")
NAME = "projects/p/roleBindings/x"


class Inner(role_binding_pb2_grpc.RoleBindingServiceServicer):
    """Tells what it got; holds calls while told so."""

    def __init__(self):
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Semaphore(0)

    def GetRoleBinding(self, request, context):
        ctx = current()
        self.arrived.release()
        self.hold.wait(20)
        span = trace.trace.get()
        return pb.RoleBinding(name=f"{ctx.request_id} {span.trace_id}", member=f"{ctx.remaining():.3f}")


class Outer(role_binding_pb2_grpc.RoleBindingServiceServicer):
    """Asks Inner, as a handler does."""

    stub = None
    engine = None

    def GetRoleBinding(self, request, context):
        return self.stub.GetRoleBinding(request, timeout=20)

    def ListRoleBindings(self, request, context):
        with transaction(self.engine):
            self.stub.GetRoleBinding(pb.GetRoleBindingRequest(name=NAME))


def process(pki, service, servicer, peers, workers):
    rows = {PREFIX + name: Row(None, peers, no_project) for name in METHODS}
    door = Door(service, pki.trust_domain, rows)
    made = Process(service, grace=1)
    made.sync(
        "127.0.0.1:0", pki.files(f"service/{service}"), door,
        lambda server: role_binding_pb2_grpc.add_RoleBindingServiceServicer_to_server(servicer, server),
        workers=workers,
    )  # fmt: skip
    return made


@pytest.fixture
def chain(pki, running):
    """client → lineage (4 workers) → policy."""
    inner, outer = Inner(), Outer()
    policy = running(process(pki, "policy", inner, internal("lineage").peers, 8))
    outer.stub = role_binding_pb2_grpc.RoleBindingServiceStub(pki.dial(policy, as_="service/lineage"))
    lineage = running(process(pki, "lineage", outer, internal("audit").peers, 4))
    return role_binding_pb2_grpc.RoleBindingServiceStub(pki.dial(lineage, as_="service/audit")), inner, outer


def test_request_id_trace_and_the_rest_of_the_deadline_travel_on(chain):
    stub, _, _ = chain
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = [("x-request-id", "req-7"), ("traceparent", header)]
    answer = stub.GetRoleBinding(pb.GetRoleBindingRequest(name=NAME), timeout=3, metadata=metadata)
    assert answer.name == "req-7 4bf92f3577b34da6a3ce929d0e0e4736"
    assert 0 < float(answer.member) < 2.97


def test_at_most_half_of_the_pool_waits_for_others(chain):
    stub, inner, _ = chain
    inner.hold.clear()
    request = pb.GetRoleBindingRequest(name=NAME)
    waiting = [stub.GetRoleBinding.future(request, timeout=20) for _ in range(2)]
    try:
        for _ in waiting:
            assert inner.arrived.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetRoleBinding(request, timeout=10)
        error = from_rpc_error(caught.value)
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_OUTGOING_CALLS")
        assert error.retry_after
    finally:
        inner.hold.set()
    assert all(call.result().name for call in waiting)
    for _ in range(5):  # the places are free again
        assert stub.GetRoleBinding(request, timeout=10).name


def test_no_call_is_made_inside_a_transaction(chain, database):
    stub, inner, outer = chain
    outer.engine = database.engine("policy", 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListRoleBindings(pb.ListRoleBindingsRequest(parent="projects/p"), timeout=10)
    assert from_rpc_error(caught.value).code == "INTERNAL"
    assert not inner.arrived.acquire(blocking=False)
    with outer.engine.connect() as conn:
        assert conn.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_dead_dependency_is_told_as_one(chain, pki, running):
    stub, _, outer = chain
    gone = running(process(pki, "policy", Inner(), internal("lineage").peers, 2))
    outer.stub = role_binding_pb2_grpc.RoleBindingServiceStub(pki.dial(gone, as_="service/lineage"))
    gone.stop()
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetRoleBinding(pb.GetRoleBindingRequest(name=NAME), timeout=10)
    assert from_rpc_error(caught.value).reason == "DEPENDENCY_UNAVAILABLE"
