"""`animus.orchestrator.v1.RunService`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from animus.orchestrator.v1 import run_pb2 as pb
from animus.orchestrator.v1 import run_pb2_grpc as pb_grpc
from animus.policy.v1 import decision_pb2
from animus.type.v1 import metric_pb2
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.documents.bindings import Bindings
from animus_kit.documents.plan import Plan
from animus_kit.errors import FieldViolation
from animus_kit.ids import Ids, derived
from animus_kit.names import parse
from animus_kit.server import context
from animus_kit.server.authz import Access, AccessDenied, DenialSink
from animus_kit.server.idempotency import once
from animus_orchestrator import permissions
from animus_orchestrator.clients import Catalog, Policy
from animus_orchestrator.domain import errors
from animus_orchestrator.domain.pipeline.problem import Problem
from animus_orchestrator.domain.plan_diff import plan_diff
from animus_orchestrator.domain.planner import NotPlannable
from animus_orchestrator.domain.scheduler import Need
from animus_orchestrator.domain.waiting import WAITING_FOR_ROOM
from animus_orchestrator.service import convert, planning
from animus_orchestrator.service.outlook import Outlook
from animus_orchestrator.service.pipelines import get_version, problems
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import pools, quotas
from animus_orchestrator.store import runs as store
from animus_orchestrator.store.facts import emit_facts
from animus_orchestrator.store.listen import AGENT


class _NotYet(Exception):
    """This request has no answer yet."""


class RunService(pb_grpc.RunServiceServicer):
    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        ids: Ids,
        catalog: Catalog,
        policy: Policy,
        access: Access,
        denials: DenialSink,
        outlook: Outlook,
    ):
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._catalog = catalog
        self._policy = policy
        self._access = access
        self._denials = denials
        self._outlook = outlook

    # -- submitting -------------------------------------------------------------------------------------------------

    def PlanRun(self, request: pb.PlanRunRequest, _: Any) -> pb.PlanRunResponse:
        where = self._where(request)
        try:
            bindings, planned = self._plan(request)
            needs = planning.needs(request.parent.removeprefix("projects/"), planned.plan, where)
            if over := self._check_room(request.parent, where, needs):
                raise NotPlannable(over)
        except NotPlannable as error:
            return pb.PlanRunResponse(problems=problems(error.problems))
        decision = self._decide(request, bindings, planned, where, f"{request.parent}/runs/planned", "", dry_run=True)
        with transaction(self._engine) as conn:
            waits = self._outlook.why(conn, [(need, True) for need in needs.values()], fresh=True)
        return pb.PlanRunResponse(
            plan=planned.document,
            plan_digest=planned.digest,
            steps=[
                pb.PlanRunResponse.StepAssessment(
                    step=step.name,
                    recipe_digest=step.recipe_digest,
                    action_digest=step.recipe_digest if step.recipe.complete else "",
                    eligible_agents=why.eligible,
                    placement_message="" if why.eligible else why.message,
                    wait_reason="" if why.eligible and why.reason == WAITING_FOR_ROOM else why.reason,
                    obstacles=convert.obstacles(why),
                )
                for step, why in zip(planned.plan.steps, waits, strict=True)
            ],
            allowed=decision.effect == decision_pb2.Decision.EFFECT_ALLOW,
            denial_message="" if decision.effect == decision_pb2.Decision.EFFECT_ALLOW else decision.message,
        )

    def CreateRun(self, request: pb.CreateRunRequest, _: Any) -> pb.Run:
        ctx = context.current()
        if (before := self._answered(ctx, request)) is not None:
            return before
        where = self._where(request)
        try:
            bindings, planned = self._plan(request)
        except NotPlannable as error:
            raise errors.RunNotPlannable(
                planning.problem_lines(error.problems),
                violations=[FieldViolation(p.path, p.reason, p.message) for p in error.problems],
            ) from None
        needs = planning.needs(request.parent.removeprefix("projects/"), planned.plan, where)
        if over := self._check_room(request.parent, where, needs):
            told = [FieldViolation(p.path, p.reason, p.message) for p in over]
            quota = all(p.reason == "QUOTA_EXCEEDED" for p in over)
            refused = errors.QuotaExceeded if quota else errors.RunNotPlannable
            raise refused(planning.problem_lines(over), violations=told)
        self._check_expected(request, planned)
        run_id = request.run_id or self._run_id(ctx, request)
        name = f"{request.parent}/runs/{run_id}"
        decision = self._decide(request, bindings, planned, where, name, request.request_id)
        if decision.effect != decision_pb2.Decision.EFFECT_ALLOW:
            raise errors.RunDenied(
                decision.message or "policy does not allow this run", metadata={"decision": decision.name}
            )
        new = self._new_run(ctx, request, run_id, bindings, planned, decision, where)
        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Run, lambda: self._insert(conn, ctx, new, planned, bindings))

    def _answered(self, ctx: context.CallContext, request: pb.CreateRunRequest) -> pb.Run | None:
        """The answer of an earlier try: what it was planned on may have changed since."""

        def not_yet() -> pb.Run:
            raise _NotYet

        if not request.request_id:
            return None
        try:
            with transaction(self._engine) as conn:
                return once(conn, ctx, request, pb.Run, not_yet)
        except _NotYet:
            return None

    def _plan(self, request: pb.PlanRunRequest | pb.CreateRunRequest) -> tuple[Bindings, planning.Planned]:
        project, _, _ = convert.version_name(request.pipeline_version)
        if f"projects/{project}" != request.parent:
            raise errors.PipelineVersionNotFound(f"{request.pipeline_version} is not in {request.parent}")
        bindings = convert.bindings_in(project, request.bindings)
        with transaction(self._engine) as conn:
            version = get_version(conn, request.pipeline_version)
        return bindings, planning.make(request.parent, version, bindings, self._catalog, self._policy)

    def _where(self, request: pb.PlanRunRequest | pb.CreateRunRequest) -> planning.Where:
        """Raises: AccessDenied for a priority above normal that the caller may not give."""
        told = request.scheduling
        if told.priority > 0:
            # The permission depends on the request, so it is asked here and not at the door.
            try:
                self._access.check(context.current(), permissions.PRIORITIZE, request.parent)
            except AccessDenied:
                self._denials.record(context.current(), permissions.PRIORITIZE, request.parent)
                raise
        return planning.Where(told.pool or pools.DEFAULT, dict(told.node_labels), told.priority)

    def _check_room(self, project: str, where: planning.Where, needs: Mapping[str, Need]) -> list[Problem]:
        """What no waiting would cure: a pool that is not for it, and more than its quota."""
        project_id = project.removeprefix("projects/")
        with transaction(self._engine) as conn:
            pool = pools.get(conn, where.pool)
            limits = quotas.get(conn, project_id).limits
        # Only where it is bounded: what a project stores is a sum over its blobs.
        stored = self._catalog.stored_bytes(project) if limits.stored_bytes is not None else None
        return planning.pool_problems(project_id, where, pool) + planning.quota_problems(limits, needs, stored)

    def _run_id(self, ctx: context.CallContext, request: pb.CreateRunRequest) -> str:
        """The same for every try of one request, so that policy decides about one resource."""
        if not request.request_id:
            return f"r{self._ids.token(5)}"
        return "r" + hashlib.sha256(f"{ctx.actor} {request.request_id}".encode()).hexdigest()[:10]

    def _check_expected(self, request: pb.CreateRunRequest, planned: planning.Planned) -> None:
        if not request.expected_plan_digest or request.expected_plan_digest == planned.digest:
            return
        with transaction(self._engine) as conn:
            expected = store.plan_document(conn, request.parent.removeprefix("projects/"), request.expected_plan_digest)
        differences = plan_diff(Plan.from_bytes(expected), planned.plan) if expected else ()
        raise errors.PlanChanged(
            "the plan is no longer the one that was expected: plan again",
            metadata={"plan_digest": planned.digest},
            violations=[FieldViolation(d.path, "PLAN_DIFFERS", f"{d.before} → {d.after}") for d in differences],
        )

    def _decide(
        self,
        request: pb.PlanRunRequest | pb.CreateRunRequest,
        bindings: Bindings,
        planned: planning.Planned,
        where: planning.Where,
        resource: str,
        request_id: str,
        *,
        dry_run: bool = False,
    ) -> decision_pb2.Decision:
        ctx = context.current()
        return self._policy.decide(
            decision_pb2.DecideRequest(
                project=request.parent,
                point=decision_pb2.Decision.POINT_SUBMIT,
                subject=ctx.subject,
                groups=ctx.groups,
                policy_snapshot_digest=planned.snapshot.snapshot_digest,
                resource=resource,
                facts=planning.facts_for_policy(planned, request.pipeline_version, bindings, where),
                dry_run=dry_run,
                request_id=derived(request_id, "decide") if request_id else "" if dry_run else self._ids.uuid(),
            )
        )

    def _new_run(
        self,
        ctx: context.CallContext,
        request: pb.CreateRunRequest,
        run_id: str,
        bindings: Bindings,
        planned: planning.Planned,
        decision: decision_pb2.Decision,
        where: planning.Where,
    ) -> store.NewRun:
        project, pipeline, _ = convert.version_name(request.pipeline_version)
        now = self._clock.now()
        return store.NewRun(
            project=project,
            id=run_id,
            pipeline=pipeline,
            pipeline_version=request.pipeline_version,
            bindings=bindings.to_bytes(),
            plan_digest=planned.digest,
            plan=planned.document,
            snapshot_digest=planned.snapshot.snapshot_digest,
            snapshot_name=planned.snapshot.name,
            snapshot=planned.snapshot.document,
            decision=decision.name,
            decision_digest=decision.decision_digest,
            labels=bindings.labels,
            experiment=bindings.experiment or "",
            creator=ctx.subject,
            create_time=now,
            steps=planning.step_rows(planned.plan, now),
            pool=where.pool,
            node_labels=where.node_labels,
            priority=where.priority,
        )

    def _insert(
        self,
        conn: Connection,
        ctx: context.CallContext,
        new: store.NewRun,
        planned: planning.Planned,
        bindings: Bindings,
    ) -> pb.Run:
        name = f"projects/{new.project}/runs/{new.id}"
        limits = quotas.admits(conn, new.project)
        if limits is not None:
            new = replace(new, held_back=f"{limits.active_runs} runs of the project may be active at a time")
        if store.insert(conn, new) is None:
            raise errors.RunExists(f"{name} exists", resource=("animus.dev/Run", name))
        emit(
            conn,
            "orchestrator.run.created",
            f"projects/{new.project}",
            name,
            ctx.actor,
            {
                "pipelineVersion": new.pipeline_version,
                "planDigest": new.plan_digest,
                "bindingsDigest": bindings.digest,
                "policySnapshotDigest": new.snapshot_digest,
                "decision": new.decision,
                "decisionDigest": new.decision_digest,
                "experiment": new.experiment or None,
                "labels": dict(new.labels),
                "steps": [step.name for step in planned.plan.steps],
                "scheduling": {
                    "pool": new.pool,
                    "nodeLabels": dict(new.node_labels),
                    "priority": new.priority,
                    "admitted": not new.held_back,
                },
            },
            ctx.request_id,
        )
        return _run(conn, name)

    # -- running ----------------------------------------------------------------------------------------------------

    def CancelRun(self, request: pb.CancelRunRequest, _: Any) -> pb.Run:
        ctx = context.current()
        ids = parse("projects/{project}/runs/{run}", request.name)

        def cancel() -> pb.Run:
            uid = store.get_uid(conn, ids["project"], ids["run"])
            if uid is None:
                raise _no_run(request.name)
            one = graph_store.load(conn, [uid])[uid]
            if request.etag and request.etag != str(one.revision):
                raise errors.EtagMismatch(f"{request.name} has changed: read it again")
            if one.graph.cancel(graph_store.db_now(conn)):
                held = {a.agent for a in one.graph.attempts.values() if not a.terminal}
                graph_store.save(conn, [one])
                emit_facts(conn, [one], ctx.actor, ctx.request_id)
                graph_store.notify(conn, AGENT, sorted(held))
            return _run(conn, request.name)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Run, cancel)

    # -- reading ----------------------------------------------------------------------------------------------------

    def GetRun(self, request: pb.GetRunRequest, _: Any) -> pb.Run:
        with transaction(self._engine) as conn:
            return _run(conn, request.name)

    def ListRuns(self, request: pb.ListRunsRequest, _: Any) -> pb.ListRunsResponse:
        states = [pb.Run.State.Name(s).removeprefix("STATE_") for s in request.states if s]
        with transaction(self._engine) as conn:
            rows, token = store.page(conn, request.parent.removeprefix("projects/"), request, states)
        return pb.ListRunsResponse(runs=map(convert.run, rows), next_page_token=token)

    def GetStep(self, request: pb.GetStepRequest, _: Any) -> pb.Step:
        ids = parse("projects/{project}/runs/{run}/steps/{step}", request.name)
        with transaction(self._engine) as conn:
            row = store.get_step(conn, ids["project"], ids["run"], ids["step"])
            if row is None:
                raise errors.StepNotFound(f"{request.name} does not exist", resource=("animus.dev/Step", request.name))
            outputs = store.outputs(conn, [row.uid]).get(row.uid, [])
            why = self._outlook.of_steps(conn, [row]).get(row.uid)
        return convert.step(request.name.rpartition("/steps/")[0], row, outputs, action=row.action or b"", why=why)

    def ListSteps(self, request: pb.ListStepsRequest, _: Any) -> pb.ListStepsResponse:
        with transaction(self._engine) as conn:
            rows, token = store.page_steps(conn, _uid(conn, request.parent), request)
            outputs = store.outputs(conn, [row.uid for row in rows])
            why = self._outlook.of_steps(conn, rows)
        found = [convert.step(request.parent, row, outputs.get(row.uid, []), why=why.get(row.uid)) for row in rows]
        return pb.ListStepsResponse(steps=found, next_page_token=token)

    def GetAttempt(self, request: pb.GetAttemptRequest, _: Any) -> pb.Attempt:
        with transaction(self._engine) as conn:
            return convert.attempt(_attempt(conn, request.name), full=True)

    def ListAttempts(self, request: pb.ListAttemptsRequest, _: Any) -> pb.ListAttemptsResponse:
        run_name, _, step = request.parent.rpartition("/steps/")
        with transaction(self._engine) as conn:
            rows, token = store.page_attempts(conn, _uid(conn, run_name), step, request)
        return pb.ListAttemptsResponse(attempts=map(convert.attempt, rows), next_page_token=token)

    def ListMetricPoints(self, request: pb.ListMetricPointsRequest, _: Any) -> pb.ListMetricPointsResponse:
        with transaction(self._engine) as conn:
            attempt = _attempt(conn, request.parent)
            rows, token = store.page_points(conn, attempt.step_uid, attempt.number, request)
        points = [metric_pb2.MetricPoint(name=r.name, step=r.step, value=r.value) for r in rows]
        return pb.ListMetricPointsResponse(metric_points=points, next_page_token=token)


def _no_run(name: str) -> errors.RunNotFound:
    return errors.RunNotFound(f"{name} does not exist", resource=("animus.dev/Run", name))


def _uid(conn: Connection, name: str) -> int:
    ids = parse("projects/{project}/runs/{run}", name)
    uid = store.get_uid(conn, ids["project"], ids["run"])
    if uid is None:
        raise _no_run(name)
    return uid


def _run(conn: Connection, name: str) -> pb.Run:
    ids = parse("projects/{project}/runs/{run}", name)
    row = store.get(conn, ids["project"], ids["run"])
    if row is None:
        raise _no_run(name)
    return convert.run(row, full=True)


def _attempt(conn: Connection, name: str) -> Any:
    ids = parse("projects/{project}/runs/{run}/steps/{step}/attempts/{attempt}", name)
    number = convert.attempt_number(ids["attempt"])
    row = store.get_attempt(conn, ids["project"], ids["run"], ids["step"], number) if number else None
    if row is None:
        raise errors.AttemptNotFound(f"{name} does not exist", resource=("animus.dev/Attempt", name))
    return row
