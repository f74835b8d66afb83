"""The permission table against the descriptors, and the tables of queries against those of the migrations."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import sqlalchemy as sa

from animus_catalog import permissions
from animus_catalog.store.tables import metadata
from animus_kit.testing import contracts

SYNC = ["ProjectService", "DatasetService", "CodeService", "EnvironmentService", "ExperimentService"]
SYNC += ["ArtifactService", "ModelService", "ResolutionService"]


def named(*services: str) -> list[str]:
    return [f"animus.catalog.v1.{service}" for service in services]


def test_every_method_has_a_row():
    contracts.assert_table_covers(permissions.ROWS, named(*SYNC, "BlobService", "AgentBlobService"))


def test_each_listener_has_its_own_rows():
    contracts.assert_table_covers(permissions.SYNC_ROWS, named(*SYNC))
    contracts.assert_table_covers(permissions.STREAM_ROWS, named("BlobService"))
    contracts.assert_table_covers(permissions.AGENT_ROWS, named("AgentBlobService"))


def test_streams_are_on_aio_listeners():
    contracts.assert_no_streams(named(*SYNC))


def test_agents_reach_blobs_only():
    reached = {name for name, row in permissions.ROWS.items() if "agent" in row.peers}
    assert reached == set(permissions.AGENT_ROWS)


def test_policy_knows_every_permission():
    known = tomllib.loads((files("animus_policy") / "cedar" / "permissions.toml").read_text())
    granted = {permission for names in known.values() for permission in names}
    asked = {row.permission for row in permissions.ROWS.values() if row.permission} | {permissions.LIST_PROJECTS}
    assert asked <= granted
    assert {name for name in granted if name.startswith("catalog.")} == asked


def test_migrations_make_the_tables_that_queries_see(database):
    engine = database.engine("catalog")
    found = sa.inspect(engine)
    for table in metadata.tables.values():
        made = {column["name"]: column for column in found.get_columns(table.name)}
        assert made.keys() == {column.name for column in table.columns}, table.name
        for column in table.columns:
            assert made[column.name]["nullable"] == column.nullable, f"{table.name}.{column.name}"
        key = found.get_pk_constraint(table.name)["constrained_columns"]
        assert key == [column.name for column in table.primary_key.columns], table.name


def test_what_is_immutable_cannot_be_changed_by_the_runtime_role(database):
    append_only = ("dataset_versions", "code_snapshots", "environment_locks", "artifacts")
    append_only += ("project_blobs", "ended_attempts")
    with database.engine("catalog").connect() as conn:
        for table in append_only:
            for verb in ("UPDATE", "DELETE", "TRUNCATE"):
                allowed = conn.scalar(sa.text("SELECT has_table_privilege(:t, :v)"), {"t": table, "v": verb})
                assert not allowed, f"{verb} on {table}"
        assert not conn.scalar(sa.text("SELECT has_schema_privilege('catalog', 'CREATE')"))
