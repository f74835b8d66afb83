"""The log: head, sources, events, payloads; and the outbox of audit's own events."""

import hashlib

import sqlalchemy as sa
from alembic import op

from animus_kit.db import outbox
from animus_kit.db.migrate import grant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE log_head (
            id smallint PRIMARY KEY CONSTRAINT log_head_one_row CHECK (id = 1),
            size bigint NOT NULL,
            root bytea NOT NULL,
            frontier bytea NOT NULL,
            writer text NOT NULL
        )""")
    op.execute("""
        CREATE TABLE sources (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            source text NOT NULL,
            generation text NOT NULL,
            last_seq bigint NOT NULL,
            last_append_time timestamptz NOT NULL,
            superseded boolean NOT NULL DEFAULT false,
            CONSTRAINT sources_source_generation UNIQUE (source, generation)
        )""")
    op.execute("""
        CREATE TABLE events (
            index bigint PRIMARY KEY,
            source_id integer NOT NULL,
            seq bigint NOT NULL,
            leaf_hash bytea NOT NULL,
            envelope bytea NOT NULL,
            event_type text NOT NULL,
            event_time timestamptz NOT NULL,
            project text,
            resource text NOT NULL,
            actor text NOT NULL,
            request_id text,
            append_time timestamptz NOT NULL,
            CONSTRAINT events_source_seq UNIQUE (source_id, seq)
        )""")
    op.execute("CREATE INDEX events_project ON events (project, index)")
    op.execute("CREATE INDEX events_resource ON events (resource text_pattern_ops, index)")
    op.execute("CREATE INDEX events_type ON events (event_type text_pattern_ops, index)")
    op.execute("""
        CREATE TABLE payloads (
            index bigint PRIMARY KEY,
            payload bytea NOT NULL,
            salt bytea NOT NULL
        )""")
    empty_root = hashlib.sha256(b"").digest()
    op.get_bind().execute(sa.text("INSERT INTO log_head VALUES (1, 0, :root, '', '')"), {"root": empty_root})
    for table in outbox.tables(sa.MetaData()):
        table.create(op.get_bind())
    grant(op, "SELECT, INSERT", "events", "payloads")
    grant(op, "SELECT, UPDATE", "log_head")
    grant(op, "SELECT, INSERT, UPDATE", "sources")
