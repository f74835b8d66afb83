"""Quotas, and the admission of runs under their limit of active ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as pg

from animus_orchestrator.domain.quota import LIMITS, NO_LIMITS, Amount, Limits, Standing
from animus_orchestrator.store.graph import notify_all
from animus_orchestrator.store.listen import READY, RUN
from animus_orchestrator.store.schema import among, quotas, runs, steps

_q = quotas.c


@dataclass(frozen=True, slots=True)
class Quota:
    """`revision` 0: never written."""

    project: str
    limits: Limits = NO_LIMITS
    weight: int = 1
    update_time: datetime | None = None
    revision: int = 0


def _limits(row: Any) -> Limits:
    return Limits(**{name: getattr(row, name) for name in LIMITS})


def get(conn: Connection, project: str, *, lock: bool = False) -> Quota:
    query = sa.select(quotas).where(_q.project == project)
    row = conn.execute(query.with_for_update(key_share=True) if lock else query).first()
    if row is None:
        return Quota(project)
    return Quota(project, _limits(row), row.weight, row.update_time, row.revision)


def ensure(conn: Connection, project: str, now: datetime) -> None:
    """Makes the row that an update locks."""
    statement = pg.insert(quotas).values(project=project, update_time=now, revision=0).on_conflict_do_nothing()
    conn.execute(statement)


def save(conn: Connection, one: Quota) -> None:
    values = {name: getattr(one.limits, name) for name in LIMITS}
    conn.execute(
        sa.update(quotas)
        .where(_q.project == one.project)
        .values(weight=one.weight, update_time=one.update_time, revision=one.revision, **values)
    )


# -- what leasing needs -------------------------------------------------------------------------------------------------

_WRITTEN = sa.select(quotas).where(_q.project == among("projects", sa.Text))
_STANDINGS = sa.text("""
    SELECT p.project, coalesce(q.weight, 1) AS weight, q.cpu_millis, q.memory_bytes, q.gpus, q.active_runs,
           q.stored_bytes, u.cpu AS used_cpu, u.memory AS used_memory, u.gpus AS used_gpus
    FROM unnest(CAST(:projects AS text[])) AS p(project)
    LEFT JOIN quotas AS q ON q.project = p.project
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(c.cpu_millis), 0) AS cpu, coalesce(sum(c.memory_bytes), 0) AS memory,
               coalesce(sum(c.gpus), 0) AS gpus
        FROM usage_changes AS c WHERE c.project = p.project
    ) AS u
""")
_LOCK = (
    sa.select(_q.project)
    .where(_q.project == among("projects", sa.Text))
    .order_by(_q.project)
    .with_for_update(key_share=True, skip_locked=True)
)


def standings(conn: Connection, projects: Iterable[str]) -> dict[str, Standing]:
    """How projects stand against each other. Those left out are being leased for by somebody else at this moment.

    Projects that have limits stay locked until the transaction ends, so that two dispatch processes cannot both give out
    what is left; nobody waits for anybody.
    """
    found = standings_seen(conn, sorted(projects))
    bounded = sorted(project for project, one in found.items() if one.limits.bounds_leases)
    if bounded:
        locked = list(conn.execute(_LOCK, {"projects": bounded}).scalars())
        found = {project: one for project, one in found.items() if not one.limits.bounds_leases}
        # Read again under the lock: whoever held it before has committed what it gave out.
        found |= standings_seen(conn, locked)
    return found


def standings_seen(conn: Connection, projects: list[str]) -> dict[str, Standing]:
    """As `standings`, without holding anything: for those who only tell."""
    rows = conn.execute(_STANDINGS, {"projects": projects}) if projects else ()
    return {
        row.project: Standing(
            row.weight, Amount(int(row.used_cpu), int(row.used_memory), int(row.used_gpus)), _limits(row)
        )
        for row in rows
    }


# -- runs under a limit -------------------------------------------------------------------------------------------------

_TERMINAL = "('SUCCEEDED', 'FAILED', 'CANCELED')"
_ACTIVE = sa.text(f"runs.admitted AND runs.state NOT IN {_TERMINAL}")
_WAITING = sa.text("NOT runs.admitted AND runs.state = 'QUEUED'")
ADMITTED_AT_ONCE = 200


def active_runs(conn: Connection, project: str) -> int:
    return conn.execute(
        sa.select(sa.func.count()).select_from(runs).where(_ACTIVE, runs.c.project == project)
    ).scalar_one()


def waiting_runs(conn: Connection, project: str) -> int:
    return conn.execute(
        sa.select(sa.func.count()).select_from(runs).where(_WAITING, runs.c.project == project)
    ).scalar_one()


def admits(conn: Connection, project: str) -> Limits | None:
    """None when a run may start now; otherwise the limits that keep it waiting. Holds the quota until the transaction
    ends, so that two runs do not both take the last place."""
    one = get(conn, project)
    if one.limits.active_runs is None:
        return None
    one = get(conn, project, lock=True)
    if one.limits.active_runs is None:
        return None
    full = active_runs(conn, project) >= one.limits.active_runs
    # Whoever came first and waits goes first.
    return one.limits if full or waiting_runs(conn, project) else None


_PROJECTS_WAITING = sa.text("""
    WITH RECURSIVE w(project) AS (
        (SELECT project FROM runs WHERE NOT admitted AND state = 'QUEUED' ORDER BY project LIMIT 1)
        UNION ALL
        SELECT (SELECT r.project FROM runs AS r
                WHERE NOT r.admitted AND r.state = 'QUEUED' AND r.project > w.project ORDER BY r.project LIMIT 1)
        FROM w WHERE w.project IS NOT NULL
    )
    SELECT project FROM w WHERE project IS NOT NULL
""")


_PROJECTS_OF_WAITING = (
    sa.select(runs.c.project).where(_WAITING, runs.c.project == among("projects", sa.Text)).distinct()
)


def admit_after(conn: Connection, projects: Iterable[str]) -> None:
    """Runs of these projects have ended: lets others in, where any wait."""
    wanted = sorted(set(projects))
    if wanted:
        for project in conn.execute(_PROJECTS_OF_WAITING, {"projects": wanted}).scalars().all():
            admit(conn, project)


def admit_all(conn: Connection) -> int:
    """Lets in what there is room for, in every project. Tells how many."""
    return sum(admit(conn, project) for project in conn.execute(_PROJECTS_WAITING).scalars().all())


def admit(conn: Connection, project: str) -> int:
    """Lets the project's first waiting runs in, as many as there is room for.

    Waits for nobody: what is locked now is looked at again by the reaper.
    """
    waiting = (
        sa.select(runs.c.uid)
        .where(_WAITING, runs.c.project == project)
        .order_by(runs.c.priority.desc(), runs.c.create_time, runs.c.uid)
        .limit(ADMITTED_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    )
    written = conn.execute(_WRITTEN, {"projects": [project]}).first()
    if written is not None:
        if conn.execute(_LOCK, {"projects": [project]}).first() is None:
            return 0
        limit = get(conn, project).limits.active_runs
        if limit is not None:
            room = limit - active_runs(conn, project)
            if room <= 0:
                return 0
            waiting = waiting.limit(min(room, ADMITTED_AT_ONCE))
    uids = list(conn.execute(waiting).scalars())
    if not uids:
        return 0
    one_of = sa.any_(sa.literal(uids, sa.ARRAY(sa.BigInteger)))
    conn.execute(
        sa.update(runs)
        .where(runs.c.uid == one_of)
        .values(admitted=True, reason="", message="", revision=runs.c.revision + 1)
    )
    conn.execute(
        sa.update(steps)
        .where(steps.c.run_uid == one_of)
        # From now on it waits for a node.
        .values(
            admitted=True,
            ready_time=sa.case((steps.c.state == "READY", sa.func.now()), else_=steps.c.ready_time),
            revision=sa.select(runs.c.revision).where(runs.c.uid == steps.c.run_uid).scalar_subquery(),
        )
    )
    notify_all(conn, [(READY, ""), *((RUN, str(uid)) for uid in uids)])
    return len(uids)
