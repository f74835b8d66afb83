"""The queue of ready steps, leases and their renewal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.db import bulk
from animus_orchestrator.domain.rooms import Reach
from animus_orchestrator.domain.scheduler import Need
from animus_orchestrator.store.graph import LIVE_STATES
from animus_orchestrator.store.schema import among, attempts, runs, steps

# Written out rather than bound: a partial index is found only when its condition is seen while planning.
_READY = sa.text("steps.state = 'READY' AND steps.admitted")
_RETRYING = sa.text("steps.state = 'RETRYING'")
_LIVE = sa.text(f"attempts.state IN ({', '.join(repr(state) for state in LIVE_STATES)})")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready step as it stands in its project's queue."""

    need: Need
    run_uid: int
    priority: int
    ready_time: datetime

    @property
    def rank(self) -> tuple[int, datetime, int]:
        """Smaller is earlier in its project's queue."""
        return -self.priority, self.ready_time, self.need.step_uid


_ANY_READY = sa.select(sa.literal(1)).select_from(steps).where(_READY).limit(1)

# The first steps of each queue there is: pool and project. An index finds the next queue, however long the last one is,
# so that a project with a million steps costs no more than one with ten.
_QUEUES = """
    WITH RECURSIVE queues (pool, allowed, project) AS (
        SELECT p.id, p.projects, (
            SELECT s.project FROM steps AS s
            WHERE s.state = 'READY' AND s.admitted AND s.pool = p.id ORDER BY s.project LIMIT 1)
        FROM pools AS p WHERE p.id = ANY(CAST(:pools AS text[])) AND NOT p.paused
        UNION ALL
        SELECT q.pool, q.allowed, (
            SELECT s.project FROM steps AS s
            WHERE s.state = 'READY' AND s.admitted AND s.pool = q.pool AND s.project > q.project
            ORDER BY s.project LIMIT 1)
        FROM queues AS q WHERE q.project IS NOT NULL
    )
    SELECT s.*
    FROM queues AS q CROSS JOIN LATERAL (
        SELECT s.uid, s.run_uid, s.project, s.pool, s.cpu_millis, s.memory_bytes, s.gpus, s.gpu_model, s.platform,
               s.capabilities, s.selector, s.priority, s.ready_time
        FROM steps AS s
        WHERE s.state = 'READY' AND s.admitted AND s.pool = q.pool AND s.project = q.project AND {condition}
        ORDER BY s.priority DESC, s.ready_time, s.uid
        LIMIT :each
    ) AS s
    WHERE (cardinality(q.allowed) = 0 OR q.project = ANY(q.allowed))
      AND (CAST(:every_project AS boolean) OR q.project = ANY(CAST(:projects AS text[])))
"""
_CANDIDATES = sa.text(
    _QUEUES.format(
        condition="""s.cpu_millis <= :cpu_millis AND s.memory_bytes <= :memory_bytes AND s.gpus <= :gpus
          AND s.capabilities <@ CAST(:capabilities AS text[]) AND s.selector <@ CAST(:labels AS text[])"""
    )
)
_STARVED = sa.text(_QUEUES.format(condition="s.ready_time < now() - CAST(:patience AS interval)"))
_READY_AMONG = sa.text("""
    SELECT s.uid, s.run_uid, s.project, s.pool, s.cpu_millis, s.memory_bytes, s.gpus, s.gpu_model, s.platform,
           s.capabilities, s.selector, s.priority, s.ready_time
    FROM steps AS s JOIN pools AS p ON p.id = s.pool
    WHERE s.state = 'READY' AND s.admitted AND s.uid = ANY(CAST(:uids AS bigint[]))
      AND NOT p.paused AND (cardinality(p.projects) = 0 OR s.project = ANY(p.projects))
""")


def any_ready(conn: Connection) -> bool:
    """Whether there is anything to lease: what most of the rounds of an idle system ask."""
    return conn.execute(_ANY_READY).first() is not None


def candidates(conn: Connection, reach: Reach, each: int) -> list[Candidate]:
    """The first `each` ready steps of every queue, less those that can fit none of the rooms. Locks nothing."""
    values = {
        **_places(reach),
        "cpu_millis": reach.cpu_millis,
        "memory_bytes": reach.memory_bytes,
        "gpus": reach.gpus,
        "capabilities": list(reach.capabilities),
        "labels": list(reach.labels),
        "each": each,
    }
    return [_candidate(row) for row in conn.execute(_CANDIDATES, values)]


def starved(conn: Connection, reach: Reach, patience: timedelta, each: int = 4) -> list[Candidate]:
    """The first steps of every queue that have waited for longer than `patience`, whether they fit or not."""
    values = {**_places(reach), "patience": patience, "each": each}
    return [_candidate(row) for row in conn.execute(_STARVED, values)]


def ready_among(conn: Connection, step_uids: Iterable[int]) -> list[Candidate]:
    """Those of the steps that are still to be leased, and that their pools still lease."""
    wanted = list(step_uids)
    return [_candidate(row) for row in conn.execute(_READY_AMONG, {"uids": wanted})] if wanted else []


def _places(reach: Reach) -> dict[str, Any]:
    return {
        "pools": list(reach.pools),
        "every_project": reach.projects is None,
        "projects": list(reach.projects or ()),
    }


def _candidate(row: Any) -> Candidate:
    need = Need(
        step_uid=row.uid,
        project=row.project,
        pool=row.pool,
        cpu_millis=row.cpu_millis,
        memory_bytes=row.memory_bytes,
        gpus=row.gpus,
        gpu_model=row.gpu_model,
        platform=row.platform,
        capabilities=frozenset(row.capabilities),
        selector=frozenset(row.selector),
    )
    return Candidate(need, row.run_uid, row.priority, row.ready_time)


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of `attempts` at its birth."""

    step_uid: int
    number: int
    run_uid: int
    name: str
    agent: str
    instance_id: str
    lease_time: datetime
    contract: bytes
    grant: bytes
    gpu_uuids: tuple[str, ...] = ()


def insert_leases(conn: Connection, leases: Sequence[Lease], duration: timedelta) -> None:
    """`lease_time` is the transaction's time, from which leases run."""
    bulk.insert(
        conn,
        attempts,
        [
            {
                "step_uid": one.step_uid,
                "number": one.number,
                "run_uid": one.run_uid,
                "name": one.name,
                "agent": one.agent,
                "instance_id": one.instance_id,
                "lease_time": one.lease_time,
                "contract": one.contract,
                "grant": one.grant,
                "gpu_uuids": list(one.gpu_uuids),
                "state": "LEASED",
                "lease_until": one.lease_time + duration,
            }
            for one in leases
        ],
    )


def renew(conn: Connection, held: Iterable[tuple[str, str]], duration: timedelta) -> None:
    """Extends the leases of (attempt, agent) pairs, as far as they are live and that agent's.

    The rows are locked in one order, so that two renewals never wait for each other.
    """
    pairs = sorted(set(held))
    if not pairs:
        return
    conn.execute(
        sa.text("""
            UPDATE attempts AS a SET lease_until = now() + CAST(:duration AS interval), listed = true
            FROM (
                SELECT a.step_uid, a.number
                FROM attempts AS a
                JOIN unnest(CAST(:names AS text[]), CAST(:agents AS text[])) AS h(name, agent)
                  ON a.name = h.name AND a.agent = h.agent
                WHERE a.state = ANY(:live)
                ORDER BY a.step_uid, a.number
                FOR NO KEY UPDATE OF a
            ) AS l
            WHERE a.step_uid = l.step_uid AND a.number = l.number
        """),
        {
            "duration": duration,
            "names": [n for n, _ in pairs],
            "agents": [a for _, a in pairs],
            "live": LIVE_STATES,
        },
    )


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """What the server holds about an attempt, as far as dispatch needs it."""

    name: str
    step_uid: int
    number: int
    run_uid: int
    step: str
    agent: str
    instance_id: str
    listed: bool
    state: str
    ran: bool
    lease_until: datetime
    cpu_millis: int
    memory_bytes: int
    gpu_uuids: tuple[str, ...]
    contract: bytes | None
    grant: bytes | None
    """Both only where they were asked for."""
    log_size: int
    metric_count: int

    @property
    def live(self) -> bool:
        return self.state in LIVE_STATES


def as_leased(lease: Lease, plan: StepPlan, duration: timedelta) -> AttemptRow:
    """The row of a lease as `insert_leases` writes it."""
    return AttemptRow(
        name=lease.name,
        step_uid=lease.step_uid,
        number=lease.number,
        run_uid=lease.run_uid,
        step=plan.step,
        agent=lease.agent,
        instance_id=lease.instance_id,
        listed=False,
        state="LEASED",
        ran=False,
        lease_until=lease.lease_time + duration,
        cpu_millis=plan.cpu_millis,
        memory_bytes=plan.memory_bytes,
        gpu_uuids=lease.gpu_uuids,
        contract=lease.contract,
        grant=lease.grant,
        log_size=0,
        metric_count=0,
    )


_a = attempts.c
_ROWS = sa.select(
    _a.name, _a.step_uid, _a.number, _a.run_uid, steps.c.name.label("step"), _a.agent, _a.instance_id, _a.listed,
    _a.state, _a.ran, _a.lease_until, steps.c.cpu_millis, steps.c.memory_bytes, _a.gpu_uuids,
    # Contract and grant are most of a row, and seldom needed.
    sa.case((_a.name == among("documents", sa.Text), _a.contract), else_=None).label("contract"),
    sa.case((_a.name == among("documents", sa.Text), _a.grant), else_=None).label("grant"), _a.log_size,
    _a.metric_count,
).join(steps, steps.c.uid == _a.step_uid)  # fmt: skip
_BY_NAME = _ROWS.where(_a.name == among("names", sa.Text))
_LIVE_OF = _ROWS.where(_a.agent == among("agents", sa.Text), _LIVE)


def _read(rows: Iterable[Any]) -> dict[str, AttemptRow]:
    return {row.name: AttemptRow(**{**row._mapping, "gpu_uuids": tuple(row.gpu_uuids)}) for row in rows}


def attempts_by_name(conn: Connection, names: Iterable[str], *, documents: Iterable[str] = ()) -> dict[str, AttemptRow]:
    """`documents`: names of those whose contract and grant are read too."""
    wanted = list(set(names))
    return _read(conn.execute(_BY_NAME, {"names": wanted, "documents": list(documents)})) if wanted else {}


def live_of(conn: Connection, agents: Iterable[str]) -> dict[str, AttemptRow]:
    """Every attempt that these agents should hold."""
    wanted = list(set(agents))
    return _read(conn.execute(_LIVE_OF, {"agents": wanted, "documents": []})) if wanted else {}


OVERDUE_GRACE = timedelta(hours=6)
"""Beyond a step's timeout: for fetching and uploading. A node that renews for longer hangs or lies."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A live attempt to be taken back. `lease_until` is None when its lease has run out."""

    run_uid: int
    step: str
    number: int
    lease_until: datetime | None


_RUN_OUT = attempts.c.lease_until < sa.func.now()
_OVERDUE = (
    attempts.c.lease_time
    + sa.cast(steps.c.timeout_seconds, sa.Float) * sa.literal(timedelta(seconds=1), sa.Interval)
    + sa.literal(OVERDUE_GRACE, sa.Interval)
    < sa.func.now()
)
_EXPIRED = (
    sa.select(
        attempts.c.run_uid, steps.c.name, attempts.c.number, sa.case((_RUN_OUT, None), else_=attempts.c.lease_until)
    )
    .join(steps, steps.c.uid == attempts.c.step_uid)
    .where(_LIVE, _RUN_OUT | _OVERDUE)
    .order_by(attempts.c.lease_until)
)  # fmt: skip


def expired(conn: Connection, limit: int = 500) -> list[Expired]:
    """Live attempts whose lease has run out by the database's clock, or that should have ended long ago."""
    return [Expired(*row) for row in conn.execute(_EXPIRED.limit(limit))]


_STILL_EXPIRED = _EXPIRED.where(attempts.c.run_uid == among("runs", sa.BigInteger))


def still_expired(conn: Connection, run_uids: Iterable[int]) -> list[Expired]:
    """Those of these (locked) runs, read again: a renewal may have come first."""
    return [Expired(*row) for row in conn.execute(_STILL_EXPIRED, {"runs": list(run_uids)})]


def due_retries(conn: Connection, limit: int = 500) -> list[tuple[int, str]]:
    """(run, step) of steps whose backoff has passed."""
    query = (
        sa.select(steps.c.run_uid, steps.c.name)
        .where(_RETRYING, steps.c.not_before <= sa.func.now())
        .order_by(steps.c.not_before)
        .limit(limit)
    )
    return [tuple(row) for row in conn.execute(query)]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a contract is made of, beside the attempt itself. `inputs`, `code` and `environment_lock` as in the table."""

    step_uid: int
    run_uid: int
    project: str
    run: str
    """The run's id."""
    step: str
    action: bytes
    action_digest: str
    recipe_digest: str
    plan_digest: str
    decision_digest: str
    inputs: list[dict[str, str]]
    code: dict[str, str] | None
    environment_lock: dict[str, str]
    cpu_millis: int
    memory_bytes: int
    gpus: int
    timeout_seconds: int
    capabilities: list[str]

    @property
    def run_name(self) -> str:
        return f"projects/{self.project}/runs/{self.run}"


_STEP_PLANS = (
    sa.select(
        steps.c.uid.label("step_uid"), steps.c.run_uid, steps.c.project, runs.c.id.label("run"),
        steps.c.name.label("step"), steps.c.action, steps.c.action_digest, steps.c.recipe_digest, runs.c.plan_digest,
        runs.c.decision_digest, steps.c.inputs, steps.c.code, steps.c.environment_lock, steps.c.cpu_millis,
        steps.c.memory_bytes, steps.c.gpus, steps.c.timeout_seconds, steps.c.capabilities,
    )
    .join(runs, runs.c.uid == steps.c.run_uid)
    .where(steps.c.uid == among("uids", sa.BigInteger))
)  # fmt: skip


def step_plans(conn: Connection, step_uids: Iterable[int]) -> dict[int, StepPlan]:
    return {row.step_uid: StepPlan(**row._mapping) for row in conn.execute(_STEP_PLANS, {"uids": list(step_uids)})}
