"""The catalog's tables, as queries see them. The migrations make them; a test compares the two.

`project` columns hold the id, the last part of `projects/{project}`. What people order by carries COLLATE "C", so that
its order is that of UTF-8 bytes on every server.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from animus_kit.db import outbox
from animus_kit.server import idempotency

metadata = MetaData()


outbox.tables(metadata)
idempotency.tables(metadata)


def _time(name: str) -> Column:
    return Column(name, DateTime(timezone=True), nullable=False)


def _text(name: str) -> Column:
    return Column(name, Text, nullable=False)


def _int(name: str) -> Column:
    return Column(name, BigInteger, nullable=False)


def _id(name: str) -> Column:
    return Column(name, Text(collation="C"), primary_key=True)


def _described() -> list[Column]:
    return [
        _text("display_name"),
        _text("description"),
        Column("labels", JSONB, nullable=False),
        _text("creator"),
        _time("create_time"),
        _time("update_time"),
        Column("revision", Integer, nullable=False),
    ]


projects = Table("projects", metadata, _id("id"), _text("state"), *_described())


def _entries(name: str) -> Table:
    return Table(name, metadata, _id("project"), _id("id"), Column("latest", Integer, nullable=False), *_described())


datasets = _entries("datasets")
environments = _entries("environments")
experiments = _entries("experiments")
models = _entries("models")

dataset_versions = Table(
    "dataset_versions",
    metadata,
    _id("project"),
    _id("dataset"),
    _id("id"),
    Column("number", Integer, nullable=False),
    _text("manifest_digest"),
    _int("file_count"),
    _int("size"),
    Column("schema", JSONB, nullable=False),
    Column("statistics", JSONB, nullable=False),
    _text("source"),
    Column("parents", ARRAY(Text), nullable=False),
    _text("description"),
    Column("labels", JSONB, nullable=False),
    _text("creator"),
    _time("create_time"),
)

code_snapshots = Table(
    "code_snapshots",
    metadata,
    _id("project"),
    _id("id"),
    _text("object_format"),
    _text("commit_id"),
    _text("tree_id"),
    _text("manifest_digest"),
    _int("file_count"),
    _int("size"),
    _text("repository_url"),
    _text("description"),
    Column("labels", JSONB, nullable=False),
    _text("creator"),
    _time("create_time"),
)

environment_locks = Table(
    "environment_locks",
    metadata,
    _id("project"),
    _id("environment"),
    _id("id"),
    Column("document", LargeBinary, nullable=False),
    _text("lock_digest"),
    _text("image_digest"),
    _text("platform"),
    Column("packages", JSONB, nullable=False),
    _int("size"),
    _text("creator"),
    _time("create_time"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _id("project"),
    _id("id"),
    _text("attempt"),
    _text("run"),
    _text("step"),
    _text("output"),
    _text("type"),
    _text("media_type"),
    _text("manifest_digest"),
    _int("file_count"),
    _int("size"),
    Column("metrics", JSONB, nullable=False),
    _time("create_time"),
)

model_versions = Table(
    "model_versions",
    metadata,
    _id("project"),
    _id("model"),
    _id("id"),
    Column("number", Integer, nullable=False),
    _text("artifact"),
    _text("manifest_digest"),
    _text("run"),
    _text("state"),
    Column("metrics", JSONB, nullable=False),
    _text("description"),
    Column("labels", JSONB, nullable=False),
    _text("creator"),
    _time("create_time"),
    _time("update_time"),
    Column("revision", Integer, nullable=False),
)

# Which digests a project owns. The bytes lie once in the store, whoever owns them.
project_blobs = Table("project_blobs", metadata, _id("project"), _id("digest"), _int("size"), _time("create_time"))

# What projects may store, as the log says; a row without a limit is like none. revision: of the quota that says so.
storage_quotas = Table("storage_quotas", metadata, _id("project"), Column("stored_bytes", BigInteger), _int("revision"))

# What attempts wrote and have not committed yet.
staged_blobs = Table(
    "staged_blobs",
    metadata,
    _id("project"),
    _id("attempt"),
    _id("digest"),
    _int("size"),
    _time("create_time"),
)

# Attempts that are over: nothing is staged for them any more.
ended_attempts = Table(
    "ended_attempts", metadata, _id("attempt"), Column("committed", Boolean, nullable=False), _time("end_time")
)

# What the log says of agents: refused on the agents' listener. serial is empty when every certificate is.
refused_agents = Table("refused_agents", metadata, _id("agent"), _id("serial"), _time("refuse_time"))

# Interrupted uploads; attempt is empty for those of people.
uploads = Table(
    "uploads",
    metadata,
    _id("project"),
    _id("attempt"),
    _id("digest"),
    _int("size"),
    _int("kept"),
    _text("staging"),
    _time("update_time"),
)

# Manifests and images whose content a project has had checked. Kept per project, so that neither an answer nor the
# time to give it depends on what another project has.
containers = Table(
    "containers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _text("project"),
    _text("digest"),
    _text("kind"),
    _int("file_count"),
    _int("size"),
)

container_entries = Table(
    "container_entries",
    metadata,
    Column("container", BigInteger, primary_key=True),
    _id("path"),
    _text("kind"),
    _int("size"),
    _text("digest"),
    _text("target"),
)
