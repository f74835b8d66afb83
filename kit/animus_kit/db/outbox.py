"""Events inside business transactions (the outbox).

`emit` inserts a row without a number, in the transaction that makes the event true: either both are there or neither.
Call it *after* locking the row that the event speaks of, so that ids of events of one resource are in the order of
their commits. Numbers are given later, to committed rows only, by animus_kit.db.sequencer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from animus_kit.actor import Actor
from animus_kit.db import bulk
from animus_kit.documents import event

GRANTS = {"outbox": "SELECT, INSERT, UPDATE, DELETE", "outbox_source": "SELECT, UPDATE"}
"""What the runtime role needs. Delivered rows are deleted after a while: the log is the record, not this table."""


@dataclass(frozen=True)
class Event:
    """What happened. `resource` is the name of what it is about; `project` is empty for what belongs to none."""

    event_type: str
    project: str
    resource: str
    actor: Actor | str
    payload: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""


def tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """The tables `outbox` and `outbox_source`, to be created by the service's first migration.

    `animus_kit.db.migrate.upgrade` puts the source's row in and grants what GRANTS says.
    """
    time = sa.TIMESTAMP(timezone=True)
    outbox = sa.Table(
        "outbox",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event_time", time, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        # Filled when numbered; what is delivered again is exactly these bytes.
        sa.Column("generation", sa.Uuid(as_uuid=False)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("envelope", sa.LargeBinary),
        sa.Column("salt", sa.LargeBinary),
        sa.Index("outbox_unnumbered", "id", postgresql_where=sa.text("seq IS NULL")),
        sa.Index("outbox_numbered", "generation", "seq", unique=True, postgresql_where=sa.text("seq IS NOT NULL")),
    )
    source = sa.Table(
        "outbox_source",
        metadata,
        # One row: this database is one source.
        sa.Column("only", sa.Boolean, sa.CheckConstraint('"only"'), primary_key=True, server_default=sa.true()),
        # New when a database is created or restored, so that numbers given twice are never taken for one another.
        sa.Column("generation", sa.Uuid(as_uuid=False), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("delivered_seq", sa.BigInteger, nullable=False, server_default="0"),
        # Grows with each takeover; who finds another one than his own has lost the source.
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("holder", sa.Text, nullable=False, server_default=""),
        # Whether the sequencer waits for a notice. While it works, nobody needs to wake it.
        sa.Column("sleeping", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    return outbox, source


_EMIT = sa.text("""
WITH made AS (
  INSERT INTO outbox (event_type, project, resource, actor, request_id, payload)
  SELECT * FROM unnest(CAST(:types AS text[]), CAST(:projects AS text[]), CAST(:resources AS text[]),
                       CAST(:actors AS text[]), CAST(:request_ids AS text[]), CAST(:payloads AS bytea[]))
)
-- A notice takes a lock that serialises commits, so it is sent only to a sequencer that sleeps.
SELECT CASE WHEN sleeping THEN pg_notify('outbox_' || current_schema(), '') END FROM outbox_source
""")


_WAKE = sa.text("SELECT CASE WHEN sleeping THEN pg_notify('outbox_' || current_schema(), '') END FROM outbox_source")
_OUTBOX = sa.table("outbox")


def emit(
    conn: sa.Connection,
    event_type: str,
    project: str,
    resource: str,
    actor: Actor | str,
    payload: Mapping[str, Any],
    request_id: str = "",
) -> None:
    """Says, in the caller's transaction, that something happened.

    payload: plain data, made a document here; the clear name of the actor is added to it. Raises DocumentError for
    what could not stand in the log: a bad row must fail its own transaction, not the sequencer of all.
    """
    emit_many(conn, (Event(event_type, project, resource, actor, payload, request_id),))


def emit_many(conn: sa.Connection, events: Sequence[Event]) -> None:
    """The same for several events, in this order, with one statement."""
    if not events:
        return
    payloads = [_payload(one) for one in events]
    if len(events) >= bulk.COPY_FROM:
        rows = [
            {"event_type": one.event_type, "project": one.project, "resource": one.resource, "actor": str(one.actor),
             "request_id": one.request_id, "payload": payload}
            for one, payload in zip(events, payloads, strict=True)
        ]  # fmt: skip
        bulk.insert(conn, _OUTBOX, rows)
        conn.execute(_WAKE)
        return
    conn.execute(
        _EMIT,
        {
            "types": [one.event_type for one in events],
            "projects": [one.project for one in events],
            "resources": [one.resource for one in events],
            "actors": [str(one.actor) for one in events],
            "request_ids": [one.request_id for one in events],
            "payloads": payloads,
        },
    )


def _payload(one: Event) -> bytes:
    subject = getattr(one.actor, "subject", "") or None
    data = event.build_payload(one.event_type, one.payload, subject)
    event.check_names(
        event_type=one.event_type,
        project=one.project,
        resource=one.resource,
        actor=str(one.actor),
        request_id=one.request_id,
    )
    return data
