"""What projects may store: quotas are the orchestrator's, and bytes are the catalog's."""

from __future__ import annotations

import sqlalchemy as sa

from animus_catalog.store import storage
from animus_kit import names
from animus_kit.db.tail import Event
from animus_kit.log import get_logger
from animus_kit.server import metrics

UPDATED = "orchestrator.quota.updated"
TYPES = (UPDATED,)

log = get_logger(__name__)


def apply(conn: sa.Connection, event: Event) -> None:
    """In the transaction that moves the cursor. An event that was applied before changes nothing."""
    try:
        project = names.id_of(names.project_of(event.resource))
        told = event.body["limits"].get("storedBytes")
        limit, revision = (int(told) if told is not None else None), int(event.body["revision"])
    except (KeyError, ValueError, TypeError, AttributeError, names.InvalidName) as problem:
        # It never becomes readable, and would keep every later result from the catalog.
        metrics.tail_skipped("catalog")
        log.error("an event that cannot be read is skipped", index=event.index, type=event.type, error=repr(problem))
        return
    storage.set_limit(conn, project, limit, revision)
