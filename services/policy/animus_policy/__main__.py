"""python -m animus_policy serve | migrate | restored"""

import sys

from animus.audit.v1 import ingest_pb2_grpc
from animus.policy.v1 import access_pb2_grpc, decision_pb2_grpc, role_binding_pb2_grpc
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.db.denials import Denials
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision
from animus_kit.db.sequencer import Sequencer
from animus_kit.ids import RandomIds
from animus_kit.server import program
from animus_kit.server.door import Door
from animus_kit.server.program import Command
from animus_kit.server.serve import WORKERS, Process

from .domain.engine import PolicySet
from .permissions import ROWS
from .service.access import AccessService
from .service.decision_point import DecisionPointService
from .service.decisions import DecisionService
from .service.own_access import OwnAccess
from .service.role_bindings import RoleBindingService
from .settings import Settings


def build(it: Settings) -> Process:
    """The whole process, not yet started."""
    clock, ids = SystemClock(), RandomIds()
    engine = create_engine(it.dsn, WORKERS, application_name="policy")
    check_revision(engine, "animus_policy")
    policy_set = PolicySet.load()
    access = OwnAccess(engine, policy_set, it.platform_admins)
    denials = Denials(engine, "policy", clock)
    door = Door("policy", it.trust_domain, ROWS, it.verifier(clock), access, denials, it.read_actor_key())
    audit = ingest_pb2_grpc.EventIngestServiceStub(dial(it.audit_target, "audit", it.tls, it.trust_domain))

    bindings = RoleBindingService(engine, clock, ids)
    decisions = DecisionService(engine, policy_set)
    point = DecisionPointService(engine, clock, ids, policy_set, it.platform_admins)
    process = Process("policy", it.metrics_listen, it.reflection)
    process.sync(
        it.listen,
        it.tls,
        door,
        lambda server: role_binding_pb2_grpc.add_RoleBindingServiceServicer_to_server(bindings, server),
        lambda server: access_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(access), server),
        lambda server: decision_pb2_grpc.add_DecisionServiceServicer_to_server(decisions, server),
        lambda server: decision_pb2_grpc.add_DecisionPointServiceServicer_to_server(point, server),
    )
    return process.task(denials, Sequencer(it.dsn, "policy", audit))


def main(arguments: list[str]) -> int:
    serve = Command(Settings, lambda it: build(it).serve())
    commands = {"serve": ("policy", serve), **program.of_database("policy")}
    return program.run(__doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
