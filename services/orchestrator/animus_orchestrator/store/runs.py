"""Runs, steps and attempts as people read them, and the birth of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as pg

from animus_kit.server.paging import Page, filtered
from animus_orchestrator.store.graph import notify
from animus_orchestrator.store.listen import READY
from animus_orchestrator.store.schema import (
    attempts,
    metric_points,
    plans,
    policy_snapshots,
    runs,
    step_outputs,
    steps,
)


@dataclass(frozen=True, slots=True)
class NewRun:
    """All of a run that is submitted, as it is stored in one transaction. `steps` are rows of the table, less ids."""

    project: str
    id: str
    pipeline: str
    pipeline_version: str
    bindings: bytes
    plan_digest: str
    plan: bytes
    snapshot_digest: str
    snapshot_name: str
    snapshot: bytes
    decision: str
    decision_digest: str
    labels: Mapping[str, str]
    experiment: str
    creator: str
    create_time: datetime
    steps: Sequence[Mapping[str, Any]]
    pool: str = "default"
    node_labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    held_back: str = ""
    """Why its project's quota does not let it start; empty when it does."""


def insert(conn: Connection, new: NewRun) -> int | None:
    """Answers the run's uid, or None when the name is taken."""
    statement = (
        pg.insert(runs)
        .values(
            project=new.project,
            id=new.id,
            pipeline=new.pipeline,
            pipeline_version=new.pipeline_version,
            bindings=new.bindings,
            state="QUEUED",
            plan_digest=new.plan_digest,
            policy_snapshot_digest=new.snapshot_digest,
            decision=new.decision,
            decision_digest=new.decision_digest,
            labels=dict(new.labels),
            experiment=new.experiment,
            pool=new.pool,
            node_labels=dict(new.node_labels),
            priority=new.priority,
            admitted=not new.held_back,
            reason="QUOTA" if new.held_back else "",
            message=new.held_back,
            creator=new.creator,
            create_time=new.create_time,
        )
        .on_conflict_do_nothing(index_elements=["project", "id"])
        .returning(runs.c.uid)
    )
    uid = conn.execute(statement).scalar_one_or_none()
    if uid is None:
        return None
    conn.execute(
        pg.insert(plans).values(project=new.project, digest=new.plan_digest, document=new.plan).on_conflict_do_nothing()
    )
    conn.execute(
        pg.insert(policy_snapshots)
        .values(project=new.project, digest=new.snapshot_digest, name=new.snapshot_name, document=new.snapshot)
        .on_conflict_do_nothing()
    )
    common = {
        "run_uid": uid,
        "project": new.project,
        "pool": new.pool,
        "selector": selector(new.node_labels),
        "priority": new.priority,
        "admitted": not new.held_back,
    }
    conn.execute(sa.insert(steps), [{**common, **step} for step in new.steps])
    notify(conn, READY, [""])
    return uid


def selector(labels: Mapping[str, str]) -> list[str]:
    """Labels as the queue compares them."""
    return sorted(f"{key}={value}" for key, value in labels.items())


def plan_document(conn: Connection, project: str, digest: str) -> bytes | None:
    """A plan under which a run of the project was submitted."""
    return conn.execute(
        sa.select(plans.c.document).where(plans.c.project == project, plans.c.digest == digest)
    ).scalar_one_or_none()


def get(conn: Connection, project: str, run_id: str) -> Any | None:
    """The run's row, with its plan's bytes."""
    query = (
        sa.select(runs, plans.c.document.label("plan"))
        .join(plans, (plans.c.project == runs.c.project) & (plans.c.digest == runs.c.plan_digest))
        .where(runs.c.project == project, runs.c.id == run_id)
    )
    return conn.execute(query).first()


def get_uid(conn: Connection, project: str, run_id: str) -> int | None:
    return conn.execute(
        sa.select(runs.c.uid).where(runs.c.project == project, runs.c.id == run_id)
    ).scalar_one_or_none()


# Bindings may have as many bytes as a request: 500 runs of a page would be half a gigabyte.
_RUN_COLUMNS = [c for c in runs.c if c.name != "bindings"]


def page(conn: Connection, project: str, request: Any, states: Iterable[str]) -> tuple[list[Any], str]:
    """Rows without bindings."""
    c = runs.c
    query = sa.select(*_RUN_COLUMNS).where(c.project == project)
    query = filtered(query, request, create_time=c.create_time, labels=c.labels)
    if wanted := list(states):
        query = query.where(c.state.in_(wanted))
    if request.pipeline:
        query = query.where(c.pipeline == request.pipeline.rsplit("/", 1)[1])
    if request.experiment:
        # The second is the index's own condition: the plan of a prepared statement knows no value.
        query = query.where(c.experiment == request.experiment, c.experiment != sa.literal_column("''"))
    if request.creator:
        query = query.where(c.creator == request.creator)
    return Page.parse(request).fetch(conn, query, c.create_time, c.id)


def changed_run(conn: Connection, uid: int, since: int) -> Any | None:
    """The run's row without bindings, if it or one of its steps has changed since that revision."""
    return conn.execute(sa.select(*_RUN_COLUMNS).where(runs.c.uid == uid, runs.c.revision > since)).first()


# -- steps --------------------------------------------------------------------------------------------------------------


_STEP_COLUMNS = [c for c in steps.c if c.name not in ("action", "recipe")]


def changed_steps(conn: Connection, run_uid: int, since: int) -> list[Any]:
    query = (
        sa.select(*_STEP_COLUMNS).where(steps.c.run_uid == run_uid, steps.c.revision > since).order_by(steps.c.ordinal)
    )
    return list(conn.execute(query))


def ready_steps(conn: Connection, run_uid: int) -> list[Any]:
    query = sa.select(*_STEP_COLUMNS).where(steps.c.run_uid == run_uid, steps.c.state == "READY")
    return list(conn.execute(query.order_by(steps.c.ordinal)))


def page_steps(conn: Connection, run_uid: int, request: Any) -> tuple[list[Any], str]:
    query = sa.select(*_STEP_COLUMNS).where(steps.c.run_uid == run_uid)
    return Page.parse(request).fetch_by(conn, query, [(steps.c.ordinal, True)])


def get_step(conn: Connection, project: str, run_id: str, name: str) -> Any | None:
    query = (
        sa.select(steps)
        .join(runs, runs.c.uid == steps.c.run_uid)
        .where(runs.c.project == project, runs.c.id == run_id, steps.c.name == name)
    )
    return conn.execute(query).first()


def outputs(conn: Connection, step_uids: Iterable[int]) -> dict[int, list[Any]]:
    """Outputs by step uid, by name."""
    wanted = sa.literal(list(step_uids), sa.ARRAY(sa.BigInteger))
    found: dict[int, list[Any]] = {}
    query = sa.select(step_outputs).where(step_outputs.c.step_uid == sa.any_(wanted)).order_by(step_outputs.c.name)
    for row in conn.execute(query):
        found.setdefault(row.step_uid, []).append(row)
    return found


# -- attempts -------------------------------------------------------------------------------------------------------------

_ATTEMPT_COLUMNS = [c for c in attempts.c if c.name not in ("contract", "grant", "provenance", "sandbox_report")]


def get_attempt(conn: Connection, project: str, run_id: str, step: str, number: int) -> Any | None:
    query = (
        sa.select(attempts)
        .join(steps, steps.c.uid == attempts.c.step_uid)
        .join(runs, runs.c.uid == steps.c.run_uid)
        .where(runs.c.project == project, runs.c.id == run_id, steps.c.name == step, attempts.c.number == number)
    )
    return conn.execute(query).first()


def page_attempts(conn: Connection, run_uid: int, step: str, request: Any) -> tuple[list[Any], str]:
    """`step` "-": of every step, in the plan's order."""
    query = (
        sa.select(*_ATTEMPT_COLUMNS, steps.c.ordinal)
        .join(steps, steps.c.uid == attempts.c.step_uid)
        .where(steps.c.run_uid == run_uid)
    )
    if step != "-":
        query = query.where(steps.c.name == step)
    return Page.parse(request).fetch_by(conn, query, [(steps.c.ordinal, True), (attempts.c.number, True)])


def page_points(conn: Connection, step_uid: int, number: int, request: Any) -> tuple[list[Any], str]:
    query = sa.select(metric_points).where(metric_points.c.step_uid == step_uid, metric_points.c.number == number)
    if request.metric:
        query = query.where(metric_points.c.name == request.metric)
    return Page.parse(request).fetch_by(conn, query, [(metric_points.c.index, True)])


def attempts_held(conn: Connection, agent_ids: Iterable[str]) -> dict[str, list[str]]:
    """Names of live attempts by agent."""
    wanted = sa.literal(list(agent_ids), sa.ARRAY(sa.Text))
    live = ("LEASED", "PREPARING", "RUNNING", "FINISHING", "CANCELING")
    query = (
        sa.select(attempts.c.agent, attempts.c.name)
        .where(attempts.c.agent == sa.any_(wanted), attempts.c.state.in_(live))
        .order_by(attempts.c.name)
    )
    found: dict[str, list[str]] = {}
    for row in conn.execute(query):
        found.setdefault(row.agent, []).append(row.name)
    return found
