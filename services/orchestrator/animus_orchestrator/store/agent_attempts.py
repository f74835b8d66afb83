"""What agents were given, read for people who have to judge a node."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus.type.v1.list_order_pb2 import ListOrder
from animus_kit.server.paging import Page
from animus_orchestrator.store.schema import attempts


def page(conn: Connection, agent_id: str, request: Any) -> tuple[list[Any], str]:
    """Every attempt the agent was ever given. The digests are made where the bytes lie."""
    c = attempts.c
    query = sa.select(
        c.name, c.step_uid, c.number, c.state, c.reason, c.lease_time, c.end_time,
        sa.func.encode(sa.func.sha256(c.provenance), "hex").label("provenance_sha256"),
        sa.func.encode(sa.func.sha256(c.contract), "hex").label("contract_sha256"),
    ).where(c.agent == agent_id)  # fmt: skip
    if request.signed_only:
        query = query.where(c.provenance.is_not(None))
    page = Page.parse(request)
    if page.order == ListOrder.LIST_ORDER_NAME_ASC:
        return page.fetch_by(conn, query, [(c.name, True)])
    up = page.order == ListOrder.LIST_ORDER_CREATE_TIME_ASC
    return page.fetch_by(conn, query, [(c.lease_time, up), (c.step_uid, up), (c.number, up)])
