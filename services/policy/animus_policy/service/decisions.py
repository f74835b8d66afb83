"""DecisionService: proto ⇄ domain. Reads only."""

from sqlalchemy import Engine

from animus.policy.v1 import decision_pb2 as pb
from animus.policy.v1 import decision_pb2_grpc as rpc
from animus_kit.db.engine import transaction
from animus_kit.server.paging import Page, filtered

from ..domain.decisions import Decision, Effect, Point
from ..domain.engine import PolicySet
from ..domain.errors import DecisionNotFound, SnapshotNotFound
from ..domain.snapshots import PolicySnapshot, current_snapshot
from ..store import decisions
from ..store.tables import decisions as table

POINTS = {point: pb.Decision.Point.Value(f"POINT_{point.name}") for point in Point}
POINTS_FROM_PROTO = {number: point for point, number in POINTS.items()}
_EFFECTS = {effect: pb.Decision.Effect.Value(f"EFFECT_{effect.name}") for effect in Effect}
_EFFECTS_FROM_PROTO = {number: effect for effect, number in _EFFECTS.items()}


class DecisionService(rpc.DecisionServiceServicer):
    def __init__(self, engine: Engine, policy_set: PolicySet):
        self._engine = engine
        self._policy_set = policy_set

    def GetDecision(self, request: pb.GetDecisionRequest, context) -> pb.Decision:
        with transaction(self._engine) as conn:
            decision = decisions.get(conn, request.name)
        if decision is None:
            raise DecisionNotFound(request.name)
        return to_proto(decision)

    def ListDecisions(self, request: pb.ListDecisionsRequest, context) -> pb.ListDecisionsResponse:
        page = Page.parse(request)
        query = decisions.listing(request.parent, _EFFECTS_FROM_PROTO.get(request.effect))
        query = filtered(query, request, create_time=table.c.create_time)
        with transaction(self._engine) as conn:
            rows, token = page.fetch(conn, query, table.c.create_time, table.c.name)
        found = [to_proto(decisions.from_row(row)) for row in rows]
        for decision in found:
            decision.ClearField("document")
        return pb.ListDecisionsResponse(decisions=found, next_page_token=token)

    def GetPolicySnapshot(self, request: pb.GetPolicySnapshotRequest, context) -> pb.PolicySnapshot:
        with transaction(self._engine) as conn:
            snapshot = decisions.get_snapshot(conn, request.name)
        if snapshot is None:
            # In force, and not decided under yet: a plan may name it already.
            snapshot = current_snapshot(self._policy_set, request.name.rpartition("/policySnapshots/")[0])
            if snapshot.name != request.name:
                raise SnapshotNotFound(request.name)
        return snapshot_to_proto(snapshot)


def to_proto(decision: Decision) -> pb.Decision:
    return pb.Decision(
        name=decision.name,
        point=POINTS[decision.point],
        effect=_EFFECTS[decision.effect],
        document=decision.document,
        decision_digest=decision.digest,
        policy_snapshot_digest=decision.snapshot_digest,
        message=decision.message,
        create_time=decision.create_time,
    )


def snapshot_to_proto(snapshot: PolicySnapshot) -> pb.PolicySnapshot:
    return pb.PolicySnapshot(
        name=snapshot.name,
        document=snapshot.document,
        snapshot_digest=snapshot.digest,
        create_time=snapshot.create_time,
    )
