"""The view is dropped and rebuilt from the log, and is the same."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from animus_lineage.__main__ import rebuild_view
from animus_lineage.settings import RebuildSettings
from animus_lineage.store.tables import metadata
from tests.lineage.test_graph import Story, search, wait_for
from tests.services import eventually

PACKAGES = ("animus_audit", "animus_policy", "animus_lineage")

VIEW = {
    "nodes": "SELECT name, project, kind, digest, from_index FROM nodes ORDER BY name",
    "edges": """
        SELECT s.name, t.name, e.kind, e.from_index, e.until_index, e.declared
        FROM edges e JOIN nodes s ON s.id = e.source_id JOIN nodes t ON t.id = e.target_id
        ORDER BY s.name, t.name, e.kind""",
    "skipped": "SELECT index, event_type, problem FROM skipped_events ORDER BY index",
    "cursor": "SELECT name, next_index FROM tail_cursors",
}


def contents(database) -> dict[str, list]:
    with database.engine("lineage", 1).connect() as conn:
        return {name: [tuple(row) for row in conn.execute(sa.text(query))] for name, query in VIEW.items()}


@pytest.fixture
def rebuild(settings, database):
    def run() -> int:
        return rebuild_view(
            RebuildSettings(
                migrate_dsn=database.admin_dsn,
                dsn=settings.dsn,
                tls_cert=settings.tls_cert,
                tls_key=settings.tls_key,
                tls_ca=settings.tls_ca,
                audit_stream_target=settings.audit_stream_target,
            )
        )

    return run


def test_dropped_and_rebuilt_equal_beside_a_serving_process(lineage, graph, people, tell, database, rebuild):
    for number in range(3):
        last = Story(tell, f"projects/b{number}").run()[-1]
    tell("catalog.model-version.created", "projects/b0", "projects/b0/models/m/versions/9", {"artifact": 7})
    last = tell("catalog.project.created", "projects/b0", "projects/b0", {})
    eventually(lambda: contents(database)["cursor"] == [("graph", last + 1)])
    before = contents(database)
    assert len(before["nodes"]) == 24 and len(before["edges"]) == 27 and len(before["skipped"]) == 1
    assert rebuild() == last + 1
    assert contents(database) == before
    # The serving process goes on from there.
    s = Story(tell, "projects/b9")
    index = s.run()[-1]
    wait_for(graph, people, s.data, index + 1)
    assert len(search(graph, people, s.model).nodes) == 8
    assert [row for row in contents(database)["nodes"] if row[1] != "projects/b9"] == before["nodes"]


def test_rebuilding_an_empty_log_ends_too(settings, database, rebuild):
    assert rebuild() == contents(database)["cursor"][0][1]


@pytest.mark.parametrize("table", ["nodes", "edges", "skipped_events", "tail_cursors"])
def test_the_runtime_role_deletes_nothing(database, table):
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            with database.engine("lineage", 1).begin() as conn:
                conn.execute(sa.text(statement))


def test_the_migrations_make_the_tables_that_the_code_knows(database):
    with database.engine("lineage", 1).connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)] == []
