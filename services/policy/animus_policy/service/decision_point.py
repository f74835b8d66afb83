"""DecisionPointService: proto ⇄ domain. Calls nobody: the caller owns the facts and hands them over."""

import re

from sqlalchemy import Connection, Engine

from animus.policy.v1 import decision_pb2 as pb
from animus.policy.v1 import decision_pb2_grpc as rpc
from animus_kit.clock import Clock
from animus_kit.db import outbox
from animus_kit.db.engine import transaction
from animus_kit.documents.errors import DocumentError
from animus_kit.ids import Ids
from animus_kit.server import idempotency
from animus_kit.server.context import CallContext, current

from ..domain.decisions import Decision, Question, check_facts, decide, evaluate
from ..domain.engine import PolicySet, Verdict
from ..domain.errors import QuestionInvalid, SnapshotNotInForce
from ..domain.roles import Principal, held
from ..domain.snapshots import PolicySnapshot, current_snapshot
from ..store import bindings, decisions
from .decisions import POINTS_FROM_PROTO, snapshot_to_proto, to_proto

# Of a person, as the caller's door made it from the subject.
_OPAQUE = re.compile(r"a-[0-9a-f]{32}")


class DecisionPointService(rpc.DecisionPointServiceServicer):
    def __init__(self, engine: Engine, clock: Clock, ids: Ids, policy_set: PolicySet, platform_admins: frozenset[str]):
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._policy_set = policy_set
        self._platform_admins = platform_admins

    def GetCurrentSnapshot(self, request: pb.GetCurrentSnapshotRequest, context) -> pb.PolicySnapshot:
        """Stores nothing: a plan asks, and planning writes no row."""
        snapshot = current_snapshot(self._policy_set, request.project)
        with transaction(self._engine) as conn:
            return snapshot_to_proto(decisions.find_snapshot(conn, snapshot))

    def Decide(self, request: pb.DecideRequest, context) -> pb.Decision:
        ctx = current()
        question = _question(request)
        snapshot = current_snapshot(self._policy_set, request.project)
        with transaction(self._engine) as conn:
            if request.dry_run:
                return self._dry_run(conn, question, snapshot)
            return idempotency.once(
                conn, ctx, request, pb.Decision, lambda: self._decide(conn, ctx, question, snapshot)
            )

    def _dry_run(self, conn: Connection, question: Question, snapshot: PolicySnapshot) -> pb.Decision:
        decision, _ = self._evaluate(conn, question, snapshot)
        answer = to_proto(decision)
        for field in ("name", "document", "decision_digest"):
            # Nothing that could be taken for a recorded decision.
            answer.ClearField(field)
        return answer

    def _decide(self, conn: Connection, ctx: CallContext, question: Question, snapshot: PolicySnapshot) -> pb.Decision:
        decision, verdict = self._evaluate(conn, question, snapshot)
        decisions.record_snapshot(conn, snapshot, decision.create_time)
        decisions.add(conn, decision)
        payload = {
            "decision": decision.name,
            "decisionDigest": decision.digest,
            "point": decision.point.value,
            "effect": decision.effect.value,
            "subject": question.principal.subject,
            "resource": question.resource,
            "policySnapshotDigest": decision.snapshot_digest,
            "factsDigest": question.facts_digest,
            "policies": list(verdict.policies),
            "peer": ctx.peer.label,
        }
        actor = _actor(ctx)
        outbox.emit(conn, "policy.decision.made", decision.project, decision.name, actor, payload, ctx.request_id)
        return to_proto(decision)

    def _evaluate(self, conn: Connection, question: Question, snapshot: PolicySnapshot) -> tuple[Decision, Verdict]:
        if question.snapshot_digest != snapshot.digest:
            raise SnapshotNotInForce(question.snapshot_digest, snapshot.digest)
        bound = bindings.of_members(conn, question.principal.members, question.project)
        verdict = evaluate(self._policy_set, question, held(question.principal, bound), self._platform_admins)
        try:
            return decide(question, verdict, self._ids.uuid(), self._clock.now()), verdict
        except DocumentError as error:
            raise QuestionInvalid(error.path, error.message) from None


def _actor(ctx: CallContext) -> str:
    """Who asked the calling service, by its word, which is for the event alone; without a word of a person, itself."""
    return ctx.stated_actor if _OPAQUE.fullmatch(ctx.stated_actor) else ctx.actor


def _question(request: pb.DecideRequest) -> Question:
    check_facts(request.facts)
    return Question(
        project=request.project,
        point=POINTS_FROM_PROTO[request.point],
        principal=Principal(request.subject, frozenset(request.groups)),
        resource=request.resource,
        facts=request.facts,
        snapshot_digest=request.policy_snapshot_digest,
    )
