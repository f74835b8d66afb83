"""Nodes that are online, with what is in use of them by our own record."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store.graph import LIVE_STATES
from animus_orchestrator.store.schema import agents


@dataclass(frozen=True, slots=True)
class OnlineNode:
    agent: Agent
    claimed: bytes | None
    used: Amount
    gpus_held: frozenset[str]


_ONLINE = sa.select(agents).where(agents.c.session_open, ~agents.c.revoked)
# The states are written out: only so is the partial index found.
_USED = sa.text(f"""
    SELECT a.agent, sum(s.cpu_millis) AS cpu_millis, sum(s.memory_bytes) AS memory_bytes, sum(s.gpus) AS gpus,
           string_agg(array_to_string(a.gpu_uuids, ' '), ' ') AS gpu_uuids
    FROM attempts AS a
    JOIN steps AS s ON s.uid = a.step_uid
    WHERE a.state IN ({", ".join(repr(state) for state in LIVE_STATES)})
    GROUP BY a.agent
""")


def online(conn: Connection) -> list[OnlineNode]:
    used = {row.agent: row for row in conn.execute(_USED)}
    found = []
    for row in conn.execute(_ONLINE):
        mine = used.get(row.id)
        amount = Amount(int(mine.cpu_millis), int(mine.memory_bytes), int(mine.gpus)) if mine else Amount()
        held = frozenset(mine.gpu_uuids.split()) if mine else frozenset()
        found.append(OnlineNode(agent_store.record(row).agent, row.claimed, amount, held))
    return found
