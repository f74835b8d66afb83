"""The tables of policy. migrations/ makes them; a test compares the two.

policy_snapshots and decisions are append-only for the runtime role: SELECT and INSERT, nothing else.
"""

from sqlalchemy import BigInteger, Column, DateTime, Index, LargeBinary, MetaData, Table, Text, UniqueConstraint

from animus_kit.db import outbox as kit_outbox
from animus_kit.server import idempotency

metadata = MetaData()

role_bindings = Table(
    "role_bindings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("project", "member", "role", name="role_bindings_member_role"),
)
Index("role_bindings_member", role_bindings.c.member, role_bindings.c.project)
Index("role_bindings_created", role_bindings.c.project, role_bindings.c.create_time, role_bindings.c.name)

# Locked by every change of a project's bindings; the number tells caches that theirs are old.
project_revisions = Table(
    "project_revisions",
    metadata,
    Column("project", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

policy_snapshots = Table(
    "policy_snapshots",
    metadata,
    Column("name", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("project", "digest", name="policy_snapshots_digest"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("point", Text, nullable=False),
    Column("effect", Text, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("digest", Text, nullable=False),
    Column("snapshot_digest", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)
Index("decisions_created", decisions.c.project, decisions.c.create_time, decisions.c.name)

outbox, outbox_source = kit_outbox.tables(metadata)
requests = idempotency.tables(metadata)
