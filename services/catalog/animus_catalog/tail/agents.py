"""Agents that were revoked or got new keys: their certificates are good until they expire, and refused all the same."""

from __future__ import annotations

import sqlalchemy as sa

from animus_catalog.store import refused_agents
from animus_kit.db.tail import Event
from animus_kit.log import get_logger
from animus_kit.server import metrics

REVOKED = "orchestrator.agent.revoked"
REENROLLED = "orchestrator.agent.reenrolled"
TYPES = (REVOKED, REENROLLED)

log = get_logger(__name__)


def apply(conn: sa.Connection, event: Event) -> None:
    """In the transaction that moves the cursor. An event that was applied before changes nothing."""
    agent = event.resource.removeprefix("agents/")
    if event.type == REVOKED:
        # The envelope says all there is to know: also an event whose payload was erased keeps its node out.
        refused_agents.refuse(conn, agent, [refused_agents.EVERY_SERIAL], event.head.time)
        log.warning("agent revoked", agent=agent)
    elif event.type == REENROLLED:
        try:
            serials = [str(serial) for serial in event.body.get("endedSerials", ()) if serial]
        except (ValueError, TypeError) as problem:
            # It never becomes readable, and would keep every later result from the catalog.
            metrics.tail_skipped("catalog")
            log.error(
                "an event that cannot be read is skipped", index=event.index, type=event.type, error=repr(problem)
            )
            return
        refused_agents.refuse(conn, agent, serials, event.head.time)
