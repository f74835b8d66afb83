"""Join tokens: what a node shall be that comes with one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.server.paging import Page
from animus_orchestrator.store.schema import agents, join_tokens


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`used_by` is the digest of the keys that used it; `response` what they were answered, serialised."""

    id: str
    secret_hash: bytes
    agent: str
    pool: str
    projects: tuple[str, ...]
    labels: dict[str, str]
    creator: str
    create_time: datetime
    expire_time: datetime
    replace_identity: bool = False
    revoke_time: datetime | None = None
    used_by: str | None = None
    used_time: datetime | None = None
    response: bytes | None = None


def insert(conn: Connection, token: JoinToken) -> None:
    conn.execute(
        sa.insert(join_tokens).values(
            id=token.id,
            secret_hash=token.secret_hash,
            agent=token.agent,
            pool=token.pool,
            projects=list(token.projects),
            labels=token.labels,
            creator=token.creator,
            create_time=token.create_time,
            expire_time=token.expire_time,
            replace_identity=token.replace_identity,
        )
    )


def lock(conn: Connection, token_id: str) -> JoinToken | None:
    row = conn.execute(sa.select(join_tokens).where(join_tokens.c.id == token_id).with_for_update()).first()
    return record(row) if row is not None else None


def record(row: Any) -> JoinToken:
    return JoinToken(
        id=row.id,
        secret_hash=row.secret_hash,
        agent=row.agent,
        pool=row.pool,
        projects=tuple(row.projects),
        labels=dict(row.labels),
        creator=row.creator,
        create_time=row.create_time,
        expire_time=row.expire_time,
        replace_identity=row.replace_identity,
        revoke_time=row.revoke_time,
        used_by=row.used_by,
        used_time=row.used_time,
        response=row.response,
    )


def page(conn: Connection, request: Any) -> tuple[list[JoinToken], str]:
    query = sa.select(join_tokens)
    if request.agent:
        query = query.where(join_tokens.c.agent == request.agent.removeprefix("agents/"))
    rows, token = Page.parse(request).fetch(conn, query, join_tokens.c.create_time, join_tokens.c.id)
    return [record(row) for row in rows], token


def revoke(conn: Connection, token_id: str, now: datetime) -> None:
    conn.execute(sa.update(join_tokens).where(join_tokens.c.id == token_id).values(revoke_time=now))


def use(conn: Connection, token_id: str, *, used_by: str, response: bytes, now: datetime) -> None:
    conn.execute(
        sa.update(join_tokens)
        .where(join_tokens.c.id == token_id)
        .values(used_by=used_by, used_time=now, response=response)
    )


def reserves(conn: Connection, agent_id: str, now: datetime, *, agents_too: bool = True) -> bool:
    """Whether the id belongs to an agent, or to a token that may still make one."""
    waiting = sa.select(sa.literal(1)).where(
        join_tokens.c.agent == agent_id,
        join_tokens.c.used_by.is_(None),
        join_tokens.c.revoke_time.is_(None),
        join_tokens.c.expire_time > now,
    )
    taken = sa.select(sa.literal(1)).where(agents.c.id == agent_id)
    query = sa.union_all(taken, waiting) if agents_too else waiting
    return conn.execute(query.limit(1)).first() is not None
