"""Schemas and roles of a database.

For each service: the role `<svc>_owner`, which cannot log in, owns the schema and migrates; and the role `<svc>`, which
logs in, finds its schema by search_path, and has only what migrations grant it. A schema is nobody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg
from psycopg import sql

_SERVICE = re.compile(r"[a-z][a-z0-9]{0,30}")


def provision(admin_dsn: str, services: Mapping[str, str]) -> None:
    """Makes roles and schemas that are missing and sets the passwords. May be repeated.

    services: name → password of the runtime role. admin_dsn: a superuser, or a role with CREATEROLE that owns the
    database. The administrator becomes a member of the owner roles, so that it can migrate (`SET ROLE`).
    """
    with psycopg.connect(admin_dsn) as conn:
        # Two programs that provision one cluster at a time would meet in pg_authid.
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('animus provision'))")
        database = conn.execute("SELECT current_database()").fetchone()[0]  # type: ignore[index]
        conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        for service, password in services.items():
            if _SERVICE.fullmatch(service) is None:
                raise ValueError(f"not a service: {service!r}")
            owner, runtime = sql.Identifier(f"{service}_owner"), sql.Identifier(service)
            _ensure_role(conn, f"{service}_owner", "NOLOGIN")
            _ensure_role(conn, service, "LOGIN")
            conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(runtime, sql.Literal(password)))
            conn.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(owner))
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(runtime, owner))
            conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(runtime, runtime))
            conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), runtime))
            conn.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(runtime, runtime))


def _ensure_role(conn: psycopg.Connection, name: str, login: str) -> None:
    if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
        conn.execute(
            sql.SQL("CREATE ROLE {} {} NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT").format(
                sql.Identifier(name), sql.SQL(login)
            )
        )
