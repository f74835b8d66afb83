"""Pools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as pg

from animus_kit.server.paging import Page
from animus_orchestrator.store.schema import agents, pools

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Pool:
    """`projects`: ids of those that may use it; empty means every project."""

    id: str
    description: str
    projects: tuple[str, ...]
    paused: bool
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int = 1

    def serves(self, project: str) -> bool:
        return not self.projects or project in self.projects


def _pool(row: Any) -> Pool:
    return Pool(**{**row._mapping, "projects": tuple(row.projects)})


def get(conn: Connection, pool_id: str, *, lock: bool = False) -> Pool | None:
    query = sa.select(pools).where(pools.c.id == pool_id)
    row = conn.execute(query.with_for_update(key_share=True) if lock else query).first()
    return _pool(row) if row else None


def get_many(conn: Connection, ids: Iterable[str]) -> dict[str, Pool]:
    wanted = sa.literal(sorted(set(ids)), sa.ARRAY(sa.Text))
    return {row.id: _pool(row) for row in conn.execute(sa.select(pools).where(pools.c.id == sa.any_(wanted)))}


def page(conn: Connection, request: Any) -> tuple[list[Pool], str]:
    rows, token = Page.parse(request).fetch(conn, sa.select(pools), pools.c.create_time, pools.c.id)
    return [_pool(row) for row in rows], token


def insert(conn: Connection, one: Pool) -> bool:
    """False when the id is taken."""
    values = {f: getattr(one, f) for f in one.__slots__} | {"projects": list(one.projects)}
    return (
        conn.execute(pg.insert(pools).values(values).on_conflict_do_nothing().returning(pools.c.id)).first() is not None
    )


def update(conn: Connection, one: Pool) -> None:
    conn.execute(
        sa.update(pools)
        .where(pools.c.id == one.id)
        .values(
            description=one.description,
            projects=list(one.projects),
            paused=one.paused,
            update_time=one.update_time,
            revision=one.revision,
        )
    )


def online(conn: Connection, ids: Iterable[str]) -> dict[str, int]:
    """How many agents of each pool have an open session."""
    wanted = sa.literal(list(ids), sa.ARRAY(sa.Text))
    query = (
        sa.select(agents.c.pool, sa.func.count().label("agents"))
        .where(agents.c.pool == sa.any_(wanted), agents.c.session_open)
        .group_by(agents.c.pool)
    )
    return {row.pool: row.agents for row in conn.execute(query)}
