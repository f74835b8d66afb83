"""python -m animus_policy serve | migrate"""

import os

from animus.policy.v1 import access_pb2_grpc, decision_pb2_grpc, role_binding_pb2_grpc
from animus_kit import settings
from animus_kit.server import wiring
from animus_kit.server.serve import Process
from animus_kit.server.wiring import Wiring

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
    parts = Wiring("policy", it, ROWS)
    policy_set = PolicySet.load()
    parts.access = access = OwnAccess(parts.engine, policy_set, it.platform_admins)
    bindings = RoleBindingService(parts.engine, parts.clock, parts.ids)
    decisions = DecisionService(parts.engine, policy_set)
    point = DecisionPointService(parts.engine, parts.clock, parts.ids, policy_set, it.platform_admins)
    process = parts.process()
    process.sync(
        it.listen,
        parts.tls,
        parts.door,
        lambda server: role_binding_pb2_grpc.add_RoleBindingServiceServicer_to_server(bindings, server),
        lambda server: access_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(access), server),
        lambda server: decision_pb2_grpc.add_DecisionServiceServicer_to_server(decisions, server),
        lambda server: decision_pb2_grpc.add_DecisionPointServiceServicer_to_server(point, server),
        workers=it.workers,
    )
    return process.task(parts.sequencer(), parts.door.denials)


def serve() -> None:
    build(settings.load(Settings, os.environ)).serve()


if __name__ == "__main__":
    wiring.main("policy", serve)
