"""The graph, the cursor of the tail that fills it, and the outbox."""

import sqlalchemy as sa
from alembic import op

from animus_kit.db import outbox, tail
from animus_kit.db.migrate import grant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE nodes (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name text NOT NULL UNIQUE,
            project text NOT NULL,
            kind text NOT NULL,
            digest text,
            from_index bigint NOT NULL
        )""")
    op.execute("""
        CREATE TABLE edges (
            source_id bigint NOT NULL,
            target_id bigint NOT NULL,
            kind text NOT NULL,
            from_index bigint NOT NULL,
            until_index bigint,
            declared boolean NOT NULL DEFAULT false,
            PRIMARY KEY (source_id, target_id, kind, from_index)
        )""")
    op.execute("CREATE UNIQUE INDEX edges_open ON edges (source_id, target_id, kind) WHERE until_index IS NULL")
    op.execute("CREATE INDEX edges_target ON edges (target_id, source_id)")
    op.execute("""
        CREATE TABLE skipped_events (
            index bigint PRIMARY KEY,
            event_type text NOT NULL,
            problem text NOT NULL
        )""")
    metadata = sa.MetaData()
    for table in (*outbox.tables(metadata), tail.tables(metadata)):
        table.create(op.get_bind())
    # Facts are added and closed, never deleted: rebuilding is the owner's.
    grant(op, "SELECT, INSERT, UPDATE", "nodes", "edges")
    grant(op, "SELECT, INSERT", "skipped_events")
