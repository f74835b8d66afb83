"""Migrations run as the owner, once, whoever starts them."""

import textwrap
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from animus_kit.db import migrate
from animus_kit.db.embedded import Embedded, EmbeddedError, binaries, socket_folder
from animus_kit.db.provision import provision

PACKAGES = ()

FIRST = """
    import sqlalchemy as sa
    from alembic import op
    from animus_kit.db import outbox
    from animus_kit.db.migrate import grant

    revision, down_revision = "0001", None

    def upgrade():
        op.create_table("things", sa.Column("id", sa.Text, primary_key=True))
        grant(op, "SELECT, INSERT", "things")
        for table in outbox.tables(sa.MetaData()):
            table.create(op.get_bind())
"""
SECOND = """
    import sqlalchemy as sa
    from alembic import op

    revision, down_revision = "0002", "0001"

    def upgrade():
        op.add_column("things", sa.Column("size", sa.BigInteger))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`animus_widgets`, with one revision."""
    versions = tmp_path / "animus_widgets" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "animus_widgets" / "__init__.py").touch()
    (versions / "__init__.py").touch()
    (versions / "0001_things.py").write_text(textwrap.dedent(FIRST))
    monkeypatch.syspath_prepend(str(tmp_path))
    return versions


@pytest.fixture
def db(fresh_database):
    provision(fresh_database.admin_dsn, {"widgets": "test-only"})
    return fresh_database


def test_upgrade_grants_and_can_be_repeated(db, package):
    for _ in range(2):
        migrate.upgrade(db.admin_dsn, "animus_widgets")
    engine = db.engine("widgets")
    migrate.check_revision(engine, "animus_widgets")
    with psycopg.connect(db.dsn("widgets"), autocommit=True) as conn:
        conn.execute("INSERT INTO things VALUES ('a')")
        assert conn.execute("SELECT last_seq FROM outbox_source").fetchone() == (0,)
        for forbidden in ("DELETE FROM things", "DROP TABLE things", "UPDATE alembic_version SET version_num = 'x'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden)


def test_a_server_is_told_to_migrate_first(db, package):
    engine = db.engine("widgets")
    with pytest.raises(migrate.RevisionMismatch, match="none.*0001"):
        migrate.check_revision(engine, "animus_widgets")
    migrate.upgrade(db.admin_dsn, "animus_widgets")
    migrate.check_revision(engine, "animus_widgets")
    (package / "0002_sizes.py").write_text(textwrap.dedent(SECOND))
    assert migrate.expected_revision("animus_widgets") == "0002"
    with pytest.raises(migrate.RevisionMismatch, match="0001.*0002"):
        migrate.check_revision(engine, "animus_widgets")
    migrate.upgrade(db.admin_dsn, "animus_widgets")
    migrate.check_revision(engine, "animus_widgets")


def test_two_at_a_time_do_not_meet(db, package):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate.upgrade(db.admin_dsn, "animus_widgets"), range(4)))
    migrate.check_revision(db.engine("widgets"), "animus_widgets")


def test_a_failing_revision_leaves_nothing(db, package):
    (package / "0002_bad.py").write_text(textwrap.dedent(SECOND) + "    op.execute('SELECT 1/0')\n")
    with pytest.raises(sa.exc.DataError):
        migrate.upgrade(db.admin_dsn, "animus_widgets")
    with pytest.raises(migrate.RevisionMismatch, match="none"):
        migrate.check_revision(db.engine("widgets"), "animus_widgets")


def test_the_runtime_role_cannot_migrate(db, package):
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied to set role"):
        migrate.upgrade(db.dsn("widgets"), "animus_widgets")


def test_the_embedded_server_starts_stops_and_starts_again(tmp_path):
    # Below /tmp and not in pytest's private folder, which the server's account may not enter.
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="animus-embedded-")
    try:
        server = Embedded(folder, {"fsync": "off"})
        import os

        os.chmod(folder, 0o711)
        for _ in range(2):
            with server.running():
                server.start()
                with psycopg.connect(server.dsn("postgres")) as conn:
                    shown = {
                        name: conn.execute(f"SHOW {name}").fetchone()[0]
                        for name in ("listen_addresses", "data_checksums")
                    }
                    assert shown == {"listen_addresses": "", "data_checksums": "on"}
                assert server.socket.stat().st_mode & 0o777 == 0o700
            assert not server.is_running()
        with server.running():
            with psycopg.connect(server.dsn("postgres")) as kept:
                kept.execute("CREATE TABLE kept ()")
            with psycopg.connect(server.dsn("postgres")) as held:
                server.kill()
                assert not server.is_running()
                server.start()
                with pytest.raises(psycopg.OperationalError):
                    held.execute("SELECT 1")
            with psycopg.connect(server.dsn("postgres")) as again:
                again.execute("SELECT FROM kept")
        hba = (server.data / "pg_hba.conf").read_text()
        assert "trust" not in [line.split()[-1] for line in hba.splitlines() if line and not line.startswith("#")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_sockets_folder_is_short_and_stable(tmp_path):
    deep = tmp_path / ("x" * 200)
    assert socket_folder(deep) == socket_folder(deep)
    assert len(str(socket_folder(deep))) < 60


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root: makes a folder that belongs to another account")
    server = Embedded(tmp_path / "pg")
    server.socket.mkdir(parents=True, exist_ok=True)
    try:
        os.chown(server.socket, 4711, 4711)
        with pytest.raises(EmbeddedError):
            server.start()
    finally:
        server.socket.rmdir()


def test_the_wheel_holds_version_16_or_later():
    assert (binaries() / "postgres").exists()
