"""Migrations: Alembic, run as the schema's owner, by `python -m animus_<svc> migrate` and by nothing else.

A service keeps revisions in `animus_<svc>/migrations/versions/`; there is no env.py, this module is it. A revision is
frozen once released. It uses `alembic.op` and, for the rights of the runtime role, `grant` from here. Rights on the
kit's own tables (outbox, requests, tail cursors) are given after the last revision.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

LOCK_TIMEOUT_MS = 10_000
"""How long a migration waits for a table that others use. Waiting longer would queue everybody behind it."""


class RevisionMismatch(Exception):
    """The database is not at the revision that this program was written for."""


def service_of(package: str) -> str:
    """`catalog` for `animus_catalog`: the name of schema and runtime role."""
    return package.removeprefix("animus_")


def upgrade(dsn: str, package: str, revision: str = "head") -> None:
    """Brings the service's schema to `revision`, in one transaction. May be repeated, and run twice at a time.

    dsn: a role that is a member of `<svc>_owner` (see animus_kit.db.provision); never the runtime role.
    """
    from alembic.runtime.environment import EnvironmentContext  # 0.6 s of import that no server needs

    service = service_of(package)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool)
    script = _script(package)
    with engine.begin() as conn:
        conn.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:k))"), {"k": f"animus migrate {service}"})
        # psycopg has no parameters in SET; `service` is a package's name, quoted all the same.
        quoted = conn.dialect.identifier_preparer.quote_identifier
        conn.exec_driver_sql(f"SET LOCAL ROLE {quoted(service + '_owner')}")
        conn.exec_driver_sql(f"SET LOCAL search_path = {quoted(service)}")
        conn.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")

        def revisions(current: Any, context: Any) -> Any:
            return script._upgrade_revs(revision, current)

        config = _config(package)
        with EnvironmentContext(config, script, fn=revisions, destination_rev=revision) as env:
            env.configure(connection=conn, version_table_schema=service, transactional_ddl=True)
            env.run_migrations()
        _finish(conn, service)
    engine.dispose()


def grant(op: Any, verbs: str, *tables: str) -> None:
    """Gives the runtime role `verbs` (for example "SELECT, INSERT") on tables of its schema. For revisions."""
    conn = op.get_bind()
    quoted = conn.dialect.identifier_preparer.quote_identifier
    schema = conn.execute(sa.text("SELECT current_schema()")).scalar_one()
    for table in tables:
        conn.exec_driver_sql(f"GRANT {verbs} ON {quoted(schema)}.{quoted(table)} TO {quoted(schema)}")


def expected_revision(package: str) -> str:
    """The revision that this program was written for: the newest one in its package. Reads files only."""
    return _script(package).get_current_head() or ""


def current_revision(conn: sa.Connection) -> str:
    """The revision of the schema on the search_path; empty for one that was never migrated."""
    if conn.execute(sa.text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return ""
    return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or ""


def check_revision(engine: sa.Engine, package: str) -> None:
    """Raises RevisionMismatch. A server calls it before it listens, and waits or ends."""
    expected = expected_revision(package)
    with engine.connect() as conn:
        found = current_revision(conn)
    if found != expected:
        raise RevisionMismatch(
            f"schema {service_of(package)} is at revision {found or 'none'}, this program needs {expected}: "
            f"run `python -m {package} migrate`"
        )


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(spec.submodule_search_locations[0]) / "migrations"


def _config(package: str) -> Any:
    from alembic.config import Config

    folder = _folder(package)
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    versions = folder / "versions"
    config.set_main_option("version_locations", str(versions if versions.is_dir() else folder).replace("%", "%%"))
    return config


def _script(package: str) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config(package))


def _finish(conn: sa.Connection, service: str) -> None:
    """What holds for every service's schema, after its last revision."""
    from animus_kit.db import outbox, tail
    from animus_kit.server import idempotency

    quoted = conn.dialect.identifier_preparer.quote_identifier
    grants = {**outbox.GRANTS, **tail.GRANTS, **idempotency.GRANTS, "alembic_version": "SELECT"}
    for table, verbs in grants.items():
        if conn.execute(sa.text("SELECT to_regclass(:t)"), {"t": f"{service}.{table}"}).scalar_one() is not None:
            conn.exec_driver_sql(f"GRANT {verbs} ON {quoted(service)}.{quoted(table)} TO {quoted(service)}")
    if conn.execute(sa.text("SELECT to_regclass(:t)"), {"t": f"{service}.outbox_source"}).scalar_one() is not None:
        conn.execute(sa.text("INSERT INTO outbox_source DEFAULT VALUES ON CONFLICT DO NOTHING"))
