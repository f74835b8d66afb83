"""Agents, their sessions and spools."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as pg

from animus_kit.db.bulk import records
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.store.schema import agent_spools, agents, among


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent with what only the store and the wire care about."""

    agent: Agent
    claimed: bytes | None
    attestation_key: bytes
    attestation_certificate: bytes
    attestation_not_after: datetime
    serial: str
    next_serial: str | None
    next_certificate: bytes | None
    next_key_digest: str | None
    enroll_time: datetime
    last_seen_time: datetime | None
    certificate_expire_time: datetime


def record(row: Any) -> AgentRecord:
    return AgentRecord(
        agent=Agent(
            id=row.id,
            pool=row.pool,
            projects=frozenset(row.projects),
            labels=dict(row.labels),
            cordoned=row.cordoned,
            message=row.state_message,
            drain_time=row.drain_time,
            drain_until=row.drain_until,
            drained_time=row.drained_time,
            preempting=row.preempting,
            revoked=row.revoked,
            revoke_time=row.revoke_time,
            revision=row.revision,
            draining=row.draining,
            session=row.session,
            session_open=row.session_open,
            instance_id=row.instance_id,
            past_instances=tuple(row.past_instances),
            clock_skew_seconds=row.clock_skew_seconds,
        ),
        claimed=row.claimed,
        attestation_key=row.attestation_key,
        attestation_certificate=row.attestation_certificate,
        attestation_not_after=row.attestation_not_after,
        serial=row.serial,
        next_serial=row.next_serial,
        next_certificate=row.next_certificate,
        next_key_digest=row.next_key_digest,
        enroll_time=row.enroll_time,
        last_seen_time=row.last_seen_time,
        certificate_expire_time=row.certificate_expire_time,
    )


def get(conn: Connection, agent_id: str, *, lock: bool = False) -> AgentRecord | None:
    query = sa.select(agents).where(agents.c.id == agent_id)
    row = conn.execute(query.with_for_update(key_share=True) if lock else query).first()
    return record(row) if row else None


_LOCK_MANY = (
    sa.select(agents).where(agents.c.id == among("ids", sa.Text)).order_by(agents.c.id).with_for_update(key_share=True)
)


def lock_many(conn: Connection, ids: Iterable[str]) -> dict[str, AgentRecord]:
    """In the order of their ids, so that two such batches never wait for each other."""
    return {row.id: record(row) for row in conn.execute(_LOCK_MANY, {"ids": sorted(set(ids))})}


def lock_out(conn: Connection, agent_id: str) -> AgentRecord | None:
    """Waits for every batch that is taking a result of this agent, and keeps others from beginning.

    What is committed before is before whatever this transaction decides, and nothing comes after it unnoticed: see
    `sessions`.
    """
    row = conn.execute(sa.select(agents).where(agents.c.id == agent_id).with_for_update()).first()
    return record(row) if row else None


def save_decision(conn: Connection, agent: Agent) -> None:
    """What was decided about an agent, by people or by the server. The caller holds its row."""
    conn.execute(
        sa.update(agents)
        .where(agents.c.id == agent.id)
        .values(
            cordoned=agent.cordoned,
            state_message=agent.message,
            drain_time=agent.drain_time,
            drain_until=agent.drain_until,
            drained_time=agent.drained_time,
            preempting=agent.preempting,
            revoked=agent.revoked,
            revoke_time=agent.revoke_time,
            revision=agent.revision,
            session=agent.session,
            session_open=agent.session_open,
            instance_id=agent.instance_id,
            past_instances=list(agent.past_instances),
        )
    )


def insert(conn: Connection, values: dict[str, Any]) -> bool:
    """False when an agent of this id exists."""
    statement = pg.insert(agents).values(values).on_conflict_do_nothing(index_elements=["id"]).returning(agents.c.id)
    return conn.execute(statement).first() is not None


_SAVE_SESSIONS = sa.text("""
    UPDATE agents AS a
    SET session = v.session, session_open = v.session_open, instance_id = v.instance_id,
        past_instances = v.past_instances, cordoned = v.cordoned, state_message = v.state_message,
        revision = v.revision, draining = v.draining, clock_skew_seconds = v.clock_skew_seconds, boot_id = v.boot_id,
        claimed = decode(v.claimed, 'base64'), last_seen_time = now()
    FROM json_to_recordset(CAST(:rows AS json)) AS v(id text, session bigint, session_open boolean, instance_id text,
        past_instances text[], cordoned text, state_message text, revision bigint, draining boolean,
        clock_skew_seconds float8, boot_id text, claimed text)
    WHERE a.id = v.id
""")


def save_sessions(conn: Connection, opened: Sequence[tuple[Agent, str, bytes]]) -> None:
    """(agent, boot id, what the node claims) of sessions that were opened. The caller holds the agents' rows."""
    rows = [
        {
            "id": agent.id,
            "session": agent.session,
            "session_open": agent.session_open,
            "instance_id": agent.instance_id,
            "past_instances": agent.past_instances,
            "cordoned": agent.cordoned,
            "state_message": agent.message,
            "revision": agent.revision,
            "draining": agent.draining,
            "clock_skew_seconds": agent.clock_skew_seconds,
            "boot_id": boot_id,
            "claimed": base64.b64encode(claimed).decode(),
        }
        for agent, boot_id, claimed in opened
    ]
    if rows:
        conn.execute(_SAVE_SESSIONS, {"rows": records(rows)})


_CLOSE = sa.text("""
    UPDATE agents AS a SET session_open = false, last_seen_time = now()
    FROM (
        SELECT g.id
        FROM agents AS g
        JOIN unnest(CAST(:ids AS text[]), CAST(:sessions AS bigint[])) AS c(id, session)
          ON g.id = c.id AND g.session = c.session
        WHERE g.session_open
        ORDER BY g.id
        FOR NO KEY UPDATE OF g
    ) AS l
    WHERE a.id = l.id
""")


def close_sessions(conn: Connection, closing: Sequence[Agent]) -> None:
    """Each only if no newer session has taken over."""
    if closing:
        conn.execute(_CLOSE, {"ids": [a.id for a in closing], "sessions": [a.session for a in closing]})


def close_silent(conn: Connection, seconds: float) -> list[str]:
    """Marks sessions closed of which nothing was heard: their dispatch process may have died."""
    silent = sa.func.now() - sa.cast(sa.literal(f"{seconds} seconds"), sa.Interval)
    statement = (
        sa.update(agents)
        .where(agents.c.session_open, agents.c.last_seen_time < silent)
        .values(session_open=False)
        .returning(agents.c.id)
    )
    return list(conn.execute(statement).scalars())


@dataclass(frozen=True, slots=True)
class Seen:
    """What a Status changed about an agent."""

    id: str
    session: int
    clock_skew_seconds: float
    draining: bool


def save_seen(conn: Connection, seen: Iterable[Seen]) -> None:
    rows = sorted(seen, key=lambda s: s.id)
    if not rows:
        return
    conn.execute(
        sa.text("""
            UPDATE agents AS a
            SET last_seen_time = now(), clock_skew_seconds = s.skew, draining = s.draining, session_open = true
            FROM (
                SELECT g.id, s.skew, s.draining
                FROM agents AS g
                JOIN unnest(CAST(:ids AS text[]), CAST(:sessions AS bigint[]), CAST(:skews AS float8[]),
                            CAST(:draining AS boolean[])) AS s(id, session, skew, draining)
                  ON g.id = s.id AND g.session = s.session
                ORDER BY g.id
                FOR NO KEY UPDATE OF g
            ) AS s
            WHERE a.id = s.id
        """),
        {
            "ids": [s.id for s in rows],
            "sessions": [s.session for s in rows],
            "skews": [s.clock_skew_seconds for s in rows],
            "draining": [s.draining for s in rows],
        },
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What an open session must know of its agent: it may have been decided since."""

    session: int
    revoked: bool
    cordoned: str
    drain_time: datetime | None
    preempting: bool
    now: datetime
    """The transaction's time, read along."""


_SESSIONS = sa.select(
    agents.c.id,
    agents.c.session,
    agents.c.revoked,
    agents.c.cordoned,
    agents.c.drain_time,
    agents.c.preempting,
    sa.func.now().label("now"),
).where(agents.c.id == among("ids", sa.Text))
_SESSIONS_HELD = _SESSIONS.order_by(agents.c.id).with_for_update(read=True, key_share=True)


def sessions(conn: Connection, ids: Iterable[str], *, hold: bool) -> dict[str, Standing]:
    """By agent. `hold` keeps an agent from being revoked until this transaction ends: what it signed is committed before
    that, or not at all."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    rows = conn.execute(_SESSIONS_HELD if hold else _SESSIONS, {"ids": wanted})
    return {row.id: Standing(*row[1:]) for row in rows}


def lock_spools(conn: Connection, spools: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Locks and reads the last durable seq of each (agent, spool id)."""
    wanted = sorted(set(spools))
    found = _lock_known(conn, wanted)
    if missing := [key for key in wanted if key not in found]:
        conn.execute(
            pg.insert(agent_spools)
            .values([{"agent": agent, "spool_id": spool, "last_seq": 0} for agent, spool in missing])
            .on_conflict_do_nothing(index_elements=["agent", "spool_id"])
        )
        _trim_spools(conn, sorted({agent for agent, _ in missing}))
        found |= _lock_known(conn, missing)
    return found


SPOOLS_KEPT = 64
"""Of each agent, the newest. A node has one spool at a time; one that announces ever new ones fills no table. What it says
again of a spool that is forgotten meets the other bounds: an attempt ends once, a log grows by offset, metrics by index."""


def _trim_spools(conn: Connection, agent_ids: list[str]) -> None:
    conn.execute(
        sa.text("""
            DELETE FROM agent_spools AS s USING (
                SELECT agent, spool_id, row_number() OVER (PARTITION BY agent ORDER BY create_time DESC, spool_id) AS place
                FROM agent_spools WHERE agent = ANY(:agents)
            ) AS p
            WHERE s.agent = p.agent AND s.spool_id = p.spool_id AND p.place > :kept
        """),
        {"agents": agent_ids, "kept": SPOOLS_KEPT},
    )


def _lock_known(conn: Connection, spools: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    query = sa.text("""
        SELECT s.agent, s.spool_id, s.last_seq
        FROM agent_spools AS s
        JOIN unnest(CAST(:agents AS text[]), CAST(:spools AS text[])) AS w(agent, spool_id) USING (agent, spool_id)
        ORDER BY s.agent, s.spool_id
        FOR NO KEY UPDATE OF s
    """)
    rows = conn.execute(query, {"agents": [a for a, _ in spools], "spools": [s for _, s in spools]})
    return {(row.agent, row.spool_id): row.last_seq for row in rows}


_SAVE_SPOOLS = sa.text("""
    UPDATE agent_spools AS s SET last_seq = v.last_seq
    FROM unnest(CAST(:agents AS text[]), CAST(:spools AS text[]), CAST(:seqs AS bigint[])) AS v(agent, spool_id, last_seq)
    WHERE s.agent = v.agent AND s.spool_id = v.spool_id
""")


def save_spools(conn: Connection, spools: dict[tuple[str, str], int]) -> None:
    """The caller holds the rows."""
    if spools:
        values = {
            "agents": [a for a, _ in spools], "spools": [s for _, s in spools], "seqs": list(spools.values()),
        }  # fmt: skip
        conn.execute(_SAVE_SPOOLS, values)


_SPOOL_SEQS = sa.text("""
    SELECT s.agent, s.spool_id, s.last_seq
    FROM agent_spools AS s
    JOIN unnest(CAST(:agents AS text[]), CAST(:spools AS text[])) AS w(agent, spool_id) USING (agent, spool_id)
""")


def spool_seqs(conn: Connection, spools: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The last durable seq of each (agent, spool id) that is known."""
    if not spools:
        return {}
    rows = conn.execute(_SPOOL_SEQS, {"agents": [a for a, _ in spools], "spools": [s for _, s in spools]})
    return {(row.agent, row.spool_id): row.last_seq for row in rows}
