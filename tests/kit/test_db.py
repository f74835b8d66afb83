"""Roles, rights and transactions, on a real PostgreSQL."""

import psycopg
import pytest
import sqlalchemy as sa

from animus_kit.db.engine import UnsafeDsn, check_dsn, transaction


def test_roles_see_their_own_schema_only(database):
    with psycopg.connect(database.dsn("catalog")) as conn:
        assert conn.execute("SELECT current_schema()").fetchone()[0] == "catalog"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TABLE catalog.mine ()")
        conn.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TABLE public.mine ()")
        conn.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM policy.anything")


def test_a_wrong_password_is_refused(database):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.dsn("catalog").replace("test-only", "guess"))


def test_owners_cannot_log_in(database):
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.dsn("catalog_owner"))


def test_transactions_commit_roll_back_and_do_not_nest(database):
    engine = database.engine("catalog")
    with transaction(engine) as conn:
        assert conn.execute(sa.text("SELECT 1")).scalar_one() == 1
        with pytest.raises(RuntimeError), transaction(engine):
            pass


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db.example",
        "host=db.example sslmode=require",
        "dbname=x",
        "host=127.0.0.1",
        "host=/run hostaddr=10.0.0.1",
        "postgresql://u:p@h/x",
    ],
)
def test_a_network_dsn_needs_verify_full(dsn):
    with pytest.raises(UnsafeDsn):
        check_dsn(dsn)


@pytest.mark.parametrize(
    "dsn", ["host=/run/x dbname=a", "postgresql://u:p@h/x?sslmode=verify-full", "postgresql:///x?host=/run/y"]
)
def test_a_safe_dsn_passes(dsn):
    assert check_dsn(dsn) == dsn
