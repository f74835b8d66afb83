"""Role bindings, snapshots, decisions; outbox and idempotency."""

import sqlalchemy as sa
from alembic import op

from animus_kit.db import outbox
from animus_kit.db.migrate import grant
from animus_kit.server import idempotency

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE role_bindings (
            name text PRIMARY KEY,
            project text NOT NULL,
            member text NOT NULL,
            role text NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT role_bindings_member_role UNIQUE (project, member, role)
        )""")
    op.execute("CREATE INDEX role_bindings_member ON role_bindings (member, project)")
    op.execute("CREATE INDEX role_bindings_created ON role_bindings (project, create_time, name)")
    op.execute("CREATE TABLE project_revisions (project text PRIMARY KEY, revision bigint NOT NULL)")
    op.execute("""
        CREATE TABLE policy_snapshots (
            name text PRIMARY KEY,
            project text NOT NULL,
            digest text NOT NULL,
            document bytea NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT policy_snapshots_digest UNIQUE (project, digest)
        )""")
    op.execute("""
        CREATE TABLE decisions (
            name text PRIMARY KEY,
            project text NOT NULL,
            point text NOT NULL,
            effect text NOT NULL,
            document bytea NOT NULL,
            digest text NOT NULL,
            snapshot_digest text NOT NULL,
            message text NOT NULL,
            create_time timestamptz NOT NULL
        )""")
    op.execute("CREATE INDEX decisions_created ON decisions (project, create_time, name)")
    metadata = sa.MetaData()
    for table in (*outbox.tables(metadata), idempotency.tables(metadata)):
        table.create(op.get_bind())
    grant(op, "SELECT, INSERT, DELETE", "role_bindings")
    grant(op, "SELECT, INSERT, UPDATE", "project_revisions")
    grant(op, "SELECT, INSERT", "policy_snapshots", "decisions")
