"""Roles, rights and transactions, on a real PostgreSQL."""

import time

import grpc
import psycopg
import pytest
import sqlalchemy as sa

from animus_kit import trace
from animus_kit.db import engine
from animus_kit.db.engine import UnsafeDsn, check_dsn, transaction
from animus_kit.server.door import Door


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
    catalog = database.engine("catalog")
    with transaction(catalog) as conn:
        assert conn.execute(sa.text("SELECT 1")).scalar_one() == 1
        with pytest.raises(RuntimeError), transaction(catalog):
            pass


@pytest.mark.parametrize(("left", "bound"), [(None, 60), (3600, 60), (10, 10), (-5, 1)])
def test_a_statement_has_the_time_that_the_caller_has(database, left, bound):
    deadline = None if left is None else time.monotonic() + left
    with trace.scope("r", trace.start(None), deadline), transaction(database.engine("catalog", 1)) as conn:
        timeout = conn.execute(sa.text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"))
        assert bound * 1000 - 900 < timeout.scalar_one() <= bound * 1000


def test_a_statement_that_takes_longer_is_the_callers_time_being_over(database, monkeypatch):
    monkeypatch.setattr(engine, "LEAST_STATEMENT_SECONDS", 0.05)
    with (
        trace.scope("r", trace.start(None), time.monotonic()),
        pytest.raises(sa.exc.OperationalError) as canceled,
        transaction(database.engine("catalog", 1)) as conn,
    ):
        conn.execute(sa.text("SELECT pg_sleep(60)"))
    assert Door("catalog", "animus.test", {}).failure(canceled.value)[0] is grpc.StatusCode.DEADLINE_EXCEEDED


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
