"""What follows when agents are revoked or drained. Level-triggered: each round does what is still to be done.

Whoever revokes or drains writes down the decision alone; here its consequences are drawn, by whichever process comes
first, so that none is lost when one dies between two lines. Runs are locked before anything in them is written, and no
agent's row is held while a run is waited for.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.log import get_logger
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store.facts import SERVICE, emit_agent, emit_facts
from animus_orchestrator.store.graph import LIVE_STATES
from animus_orchestrator.store.listen import AGENT
from animus_orchestrator.store.schema import agents, among, attempts, steps

log = get_logger(__name__)

SETTLE = timedelta(seconds=2)
"""A batch that was under way when a drain was asked for may still lease: an agent is not called empty before that."""

PREEMPT_GRACE = timedelta(seconds=90)
"""After a drain's time was over: for TERM, grace, KILL and the report. Whoever does not stop by then is taken back."""

_LIVE = sa.text(f"attempts.state IN ({', '.join(repr(state) for state in LIVE_STATES)})")
_HELD = sa.exists().where(attempts.c.agent == agents.c.id, _LIVE)

_TAKE_BACK = (
    sa.select(
        attempts.c.run_uid,
        steps.c.name,
        attempts.c.number,
        attempts.c.agent,
        attempts.c.lease_until,
        agents.c.revoked,
    )
    .join(steps, steps.c.uid == attempts.c.step_uid)
    .join(agents, agents.c.id == attempts.c.agent)
    .where(
        _LIVE,
        agents.c.revoked | (agents.c.preempting & (agents.c.drain_until + PREEMPT_GRACE < sa.func.now())),
    )
)


def take_back(conn: Connection, limit: int = 500) -> int:
    """Ends as LOST what revoked agents hold, and what drained ones did not stop in time. Answers how many.

    Their processes are not known to be dead: the next attempt waits until the lease has run out.
    """
    found = list(conn.execute(_TAKE_BACK.limit(limit)))
    if not found:
        return 0
    loaded = graph_store.load(conn, {row.run_uid for row in found}, skip_locked=True)
    now = graph_store.db_now(conn)
    lost = 0
    # Read again under the locks: a result may have come first.
    again = _TAKE_BACK.where(attempts.c.run_uid == among("runs", sa.BigInteger))
    for row in conn.execute(again, {"runs": list(loaded)}):
        reason, why = ("AGENT_REVOKED", "was revoked") if row.revoked else ("PREEMPTED", "did not stop it in time")
        try:
            loaded[row.run_uid].graph.lose(
                row.name,
                row.number,
                now,
                reason=reason,
                message=f"agents/{row.agent} {why}",
                lease_until=row.lease_until if row.lease_until > now else None,
            )
            lost += 1
        except StaleAttempt:
            continue
    graph_store.save(conn, loaded.values())
    emit_facts(conn, loaded.values())
    if lost:
        log.warning("attempts were taken back from agents", attempts=lost)
    return lost


def preempt(conn: Connection) -> list[str]:
    """Agents whose drain's time is over from now on: what they still run is to be stopped."""
    due = (
        sa.select(agents.c.id)
        .where(~agents.c.revoked, ~agents.c.preempting, agents.c.drain_until <= sa.func.now())
        .order_by(agents.c.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    found = list(
        conn.execute(
            sa.update(agents)
            .where(agents.c.id.in_(due.scalar_subquery()))
            .values(preempting=True, revision=agents.c.revision + 1)
            .returning(agents.c.id)
        ).scalars()
    )
    for agent in found:
        emit_agent(conn, "orchestrator.agent.preempting", agent, {}, SERVICE)
    graph_store.notify(conn, AGENT, found)
    return found


def note_drained(conn: Connection) -> list[str]:
    """Agents that were to be emptied and hold nothing any more."""
    empty = (
        sa.select(agents.c.id)
        .where(
            ~agents.c.revoked,
            agents.c.drained_time.is_(None),
            agents.c.drain_time < sa.func.now() - sa.literal(SETTLE, sa.Interval),
            ~_HELD,
        )
        .order_by(agents.c.id)
        .with_for_update(key_share=True, skip_locked=True, of=agents)
    )
    found = list(
        conn.execute(
            sa.update(agents)
            .where(agents.c.id.in_(empty.scalar_subquery()))
            .values(drained_time=sa.func.now(), revision=agents.c.revision + 1)
            .returning(agents.c.id)
        ).scalars()
    )
    for agent in found:
        emit_agent(conn, "orchestrator.agent.drained", agent, {}, SERVICE)
    return found


def settle(conn: Connection) -> None:
    """One round over drains: cheap while nobody drains."""
    any_drain = sa.select(sa.literal(1)).where(agents.c.drain_time.is_not(None), agents.c.drained_time.is_(None))
    if conn.execute(any_drain.limit(1)).first() is None:
        return
    preempt(conn)
    note_drained(conn)
