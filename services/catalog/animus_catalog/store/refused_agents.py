"""Agents, or single certificates of theirs, that the log says are good no more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from animus_catalog.store.tables import refused_agents

EVERY_SERIAL = ""


def refuse(conn: Connection, agent: str, serials: Iterable[str], at: datetime) -> None:
    """agent: its id. An event that was applied before changes nothing."""
    rows = [{"agent": agent, "serial": serial, "refuse_time": at} for serial in serials]
    if rows:
        conn.execute(insert(refused_agents).on_conflict_do_nothing(), rows)


def every(conn: Connection) -> frozenset[tuple[str, str]]:
    """(agent, serial) pairs; few, since nodes are seldom thrown out."""
    return frozenset((row.agent, row.serial) for row in conn.execute(select(refused_agents)))
