"""The migrations make the tables that the code knows."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from animus_policy.store.tables import metadata


def test_the_migrations_make_the_tables_that_the_code_knows(database):
    with database.engine("policy").connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)] == []
