"""Giving ready steps to agents with room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from animus_kit.digest import sha256
from animus_kit.documents.errors import DocumentError
from animus_kit.log import get_logger
from animus_orchestrator.dispatch import choosing
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.fleet import Fleet
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.domain.scheduler import Placement
from animus_orchestrator.domain.step import StepState
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import queue
from animus_orchestrator.store.facts import facts_of

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch, Limits


log = get_logger(__name__)


def lease(
    batch: Batch, sessions: list[SessionState], contracts: Contracts, limits: Limits, fleet: Fleet
) -> dict[str, list[str]]:
    """Leases what fits. Answers agent id → names of its new attempts.

    Candidates are read without a lock, placed, and claimed by locking their runs, skipping those that somebody else
    holds: two dispatch processes may choose the same step, and only one gets it.
    """
    by_agent = {s.agent.id: s for s in sessions}
    placements, run_of = choosing.choose(batch, sessions, fleet)
    if not placements:
        return {}
    partial: dict[int, set[int]] = {}
    for p in placements:
        partial.setdefault(run_of[p.step_uid], set()).add(p.step_uid)
    # What this transaction has locked and read already, to commit what came before, is not read again.
    loaded = {uid: batch.graphs[uid] for uid, steps in partial.items() if _holds(batch.graphs.get(uid), steps)}
    others = {uid: steps for uid, steps in partial.items() if uid not in loaded}
    loaded |= graph_store.load(batch.conn, others, partial=others, skip_locked=True)
    plans = queue.step_plans(batch.conn, [p.step_uid for p in placements])
    rows: list[queue.Lease] = []
    poisoned: list[tuple[queue.StepPlan, str]] = []
    given: dict[str, list[str]] = {}
    for p in placements:
        one = loaded.get(run_of[p.step_uid])
        plan = plans.get(p.step_uid)
        if one is None or plan is None:
            continue
        try:
            row = _lease_one(batch, one, plan, p, by_agent[p.agent], contracts)
        except DocumentError as error:
            # Planned by another release, perhaps. It must not keep everybody else's work from being leased.
            log.exception("no contract can be made of a step", run=plan.run_name, step=plan.step)
            poisoned.append((plan, f"{error.reason}: {error}"))
            continue
        if row is None:
            continue
        rows.append(row)
        batch.leased[row.name] = row
        batch.rows[row.name] = queue.as_leased(row, plan, limits.lease)
        session = batch.touch(by_agent[p.agent])
        session.given[row.name] = session.sizes[row.name] = Size(plan.cpu_millis, plan.memory_bytes, p.gpu_uuids)
        given.setdefault(p.agent, []).append(row.name)
    queue.insert_leases(batch.conn, rows, limits.lease)
    graph_store.save(batch.conn, loaded.values(), new_attempts=frozenset((r.step_uid, r.number) for r in rows))
    batch.events += facts_of(batch.conn, loaded.values())
    _refuse(batch, poisoned)
    return given


def _holds(one: graph_store.Loaded | None, step_uids: set[int]) -> bool:
    return one is not None and step_uids <= {step.uid for step in one.graph.steps.values()}


def _refuse(batch: Batch, poisoned: list[tuple[queue.StepPlan, str]]) -> None:
    if not poisoned:
        return
    batch.graphs.clear()
    loaded = graph_store.load(batch.conn, [plan.run_uid for plan, _ in poisoned])
    for plan, message in poisoned:
        loaded[plan.run_uid].graph.refuse(plan.step, "CONTRACT_INVALID", message[:1024], batch.now)
    graph_store.save(batch.conn, loaded.values())
    batch.events += facts_of(batch.conn, loaded.values())


def _lease_one(
    batch: Batch,
    one: graph_store.Loaded,
    plan: queue.StepPlan,
    placement: Placement,
    session: SessionState,
    contracts: Contracts,
) -> queue.Lease | None:
    step = one.graph.steps.get(plan.step)
    if step is None or step.state is not StepState.READY:
        return None  # somebody else was first
    number = step.current_attempt + 1
    name = f"{plan.run_name}/steps/{plan.step}/attempts/{number}"
    contract, grant = contracts.issue(plan, name, number, placement.agent, batch.now, gpu_uuids=placement.gpu_uuids)
    try:
        one.graph.lease(plan.step, placement.agent, batch.now)
    except StaleAttempt:
        return None  # the run is being canceled
    one.leased[plan.step, number] = {
        "actionDigest": plan.action_digest,
        "recipeDigest": plan.recipe_digest,
        "contractDigest": sha256(contract),
    }
    return queue.Lease(
        step_uid=plan.step_uid,
        number=number,
        run_uid=plan.run_uid,
        name=name,
        agent=placement.agent,
        instance_id=session.agent.instance_id,
        lease_time=batch.now,
        contract=contract,
        grant=grant,
        gpu_uuids=placement.gpu_uuids,
    )
