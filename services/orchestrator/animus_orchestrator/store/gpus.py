"""Which GPUs of a node are somebody's. The truth is `attempts.gpu_uuids`: there is no second list that could disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_orchestrator.store.graph import LIVE_STATES
from animus_orchestrator.store.schema import agents, among, attempts

_a = attempts.c
# Written out, so that the partial indexes attempts_held and attempts_lost are found.
_LIVE = sa.text(f"attempts.state IN ({', '.join(repr(state) for state in LIVE_STATES)})")
_LOST = sa.text("attempts.state = 'LOST'")
_GIVEN = sa.func.cardinality(_a.gpu_uuids) > 0
_HELD = sa.union_all(
    sa.select(_a.agent, _a.gpu_uuids).where(_a.agent == among("agents", sa.Text), _LIVE, _GIVEN),
    # Its node does not hold it any more, and its processes are not known to be dead before its lease has run out.
    sa.select(_a.agent, _a.gpu_uuids).where(
        _a.agent == among("agents", sa.Text), _LOST, _a.lease_until >= sa.func.now(), _GIVEN
    ),
)
_LOCK = (
    sa.select(agents.c.id)
    .where(agents.c.id == among("agents", sa.Text))
    .order_by(agents.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)


def held(conn: Connection, agent_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Agent → UUIDs of its GPUs that no other attempt may be given now."""
    wanted = sorted(set(agent_ids))
    found: dict[str, set[str]] = defaultdict(set)
    if wanted:
        for agent, uuids in conn.execute(_HELD, {"agents": wanted}):
            found[agent].update(uuids)
    return {agent: frozenset(uuids) for agent, uuids in found.items()}


def lock(conn: Connection, agent_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Locks these agents against everybody else who would give their GPUs, and answers `held` as it is under the lock.

    An agent that somebody else has locked is left out: another dispatch process may be giving the same devices, for a
    session that it does not yet know to be superseded. Nobody waits, so that no order of locks matters.
    """
    wanted = sorted(set(agent_ids))
    if not wanted:
        return {}
    locked = list(conn.execute(_LOCK, {"agents": wanted}).scalars())
    # A statement of its own: it sees what was committed before the lock was free.
    taken = held(conn, locked)
    return {agent: taken.get(agent, frozenset()) for agent in locked}
