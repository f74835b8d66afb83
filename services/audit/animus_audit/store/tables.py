"""The tables of the log. migrations/ makes them; a test compares the two.

events and payloads are append-only for the runtime role: SELECT and INSERT, nothing else. What an event says of people
is in payloads, so that it can be erased by another role while the log stays whole. No foreign keys: checking them for
each row costs a third of the writer's throughput, rows are written by one function in one transaction, and verify tells.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from animus_kit.db import outbox as kit_outbox

metadata = MetaData()

# One row. size, root and frontier are those of the tree over every leaf below size; writer tells who moved it last.
log_head = Table(
    "log_head",
    metadata,
    Column("id", SmallInteger, CheckConstraint("id = 1", name="log_head_one_row"), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("writer", Text, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    Column("generation", Text, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_append_time", DateTime(timezone=True), nullable=False),
    Column("superseded", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("source", "generation", name="sources_source_generation"),
)

events = Table(
    "events",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("source_id", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("event_time", DateTime(timezone=True), nullable=False),
    Column("project", Text),
    Column("resource", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("request_id", Text),
    Column("append_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("source_id", "seq", name="events_source_seq"),
)
Index("events_project", events.c.project, events.c.index)
Index("events_resource", events.c.resource, events.c.index, postgresql_ops={"resource": "text_pattern_ops"})
Index("events_type", events.c.event_type, events.c.index, postgresql_ops={"event_type": "text_pattern_ops"})

payloads = Table(
    "payloads",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
)

# audit is a source like every other: its own events (denials) go the same way.
outbox, outbox_source = kit_outbox.tables(metadata)
