"""The newest lines of agents' own logs: a bounded number of each, for people who look after nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus.type.v1.list_order_pb2 import ListOrder
from animus_kit.server.paging import Page
from animus_orchestrator.store.schema import agent_logs

KEPT_LINES = 2000
"""Of each agent, at least; older ones go once there are a tenth more."""


def append(conn: Connection, lines: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the table, less index and receive_time."""
    if lines:
        conn.execute(sa.insert(agent_logs).values(receive_time=sa.func.now()), lines)


def prune(conn: Connection, agent: str) -> int:
    """Forgets all but the newest lines of an agent."""
    c = agent_logs.c
    oldest = (
        sa.select(c.index).where(c.agent == agent).order_by(c.index.desc()).offset(KEPT_LINES - 1).limit(1)
    ).scalar_subquery()
    return conn.execute(sa.delete(agent_logs).where(c.agent == agent, c.index < oldest)).rowcount


def page(conn: Connection, agent: str, request: Any) -> tuple[list[Any], str]:
    c = agent_logs.c
    query = sa.select(agent_logs).where(c.agent == agent, c.index > request.after_index)
    if request.min_level:
        query = query.where(c.level >= request.min_level)
    page = Page.parse(request)
    return page.fetch_by(conn, query, [(c.index, page.order == ListOrder.LIST_ORDER_CREATE_TIME_ASC)])
