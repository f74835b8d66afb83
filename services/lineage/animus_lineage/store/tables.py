"""The view's tables. All of it can be dropped: the log is the record.

The runtime role may add facts and close edges, never delete; rebuilding is done as the owner.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    MetaData,
    Table,
    Text,
    text,
)

from animus_kit.db import outbox as kit_outbox
from animus_kit.db import tail as kit_tail

metadata = MetaData()

nodes = Table(
    "nodes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", Text),
    # Index of the event that spoke of it first.
    Column("from_index", BigInteger, nullable=False),
)

edges = Table(
    "edges",
    metadata,
    Column("source_id", BigInteger, primary_key=True),
    Column("target_id", BigInteger, primary_key=True),
    Column("kind", Text, primary_key=True),
    # Index of the event that states it, and of the one that closes it.
    Column("from_index", BigInteger, primary_key=True),
    Column("until_index", BigInteger),
    Column("declared", Boolean, nullable=False, server_default=text("false")),
)
Index(
    "edges_open", edges.c.source_id, edges.c.target_id, edges.c.kind, unique=True,
    postgresql_where=edges.c.until_index.is_(None),
)  # fmt: skip
Index("edges_target", edges.c.target_id, edges.c.source_id)

# Events whose payload had another form than their type promises, or was erased. They state nothing.
skipped_events = Table(
    "skipped_events",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("event_type", Text, nullable=False),
    Column("problem", Text, nullable=False),
)

# One row of it: how far the log is applied. Denials are lineage's only own events.
tail_cursors = kit_tail.tables(metadata)
outbox, outbox_source = kit_outbox.tables(metadata)
