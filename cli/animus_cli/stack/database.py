"""The stack's PostgreSQL: one cluster, one database, a schema and two roles for each service."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from animus_cli.stack.keys import SERVICES
from animus_cli.stack.layout import Layout
from animus_kit import pki
from animus_kit.db import migrate
from animus_kit.db.embedded import Embedded, account
from animus_kit.db.provision import provision

DATABASE = "animus"


def start(layout: Layout) -> Embedded:
    """Starts the cluster, and on the first start makes database, roles and schemas. Raises EmbeddedError."""
    cluster = Embedded(layout.postgres)
    cluster.start()
    cluster.create_database(DATABASE)
    return cluster


def prepare(layout: Layout, cluster: Embedded) -> None:
    """Brings every schema to this build's revision, all in this one process: importing Alembic takes half a second."""
    passwords = {service: _password(layout, cluster, service) for service in SERVICES}
    admin = cluster.dsn(DATABASE)
    provision(admin, passwords)
    for service in SERVICES:
        migrate.upgrade(admin, f"animus_{service}")


def dsn(layout: Layout, cluster: Embedded, service: str) -> str:
    """Of the runtime role; the password stands in a file that libpq reads (passfile)."""
    return f"host={cluster.socket} dbname={DATABASE} user={service} passfile={_passfile(layout, service)}"


def _passfile(layout: Layout, service: str) -> Path:
    return layout.run / f"{service}.pgpass"


def _password(layout: Layout, cluster: Embedded, service: str) -> str:
    path = _passfile(layout, service)
    if path.exists():
        return path.read_text().strip().rpartition(":")[2]
    password = secrets.token_hex(24)
    # In one step: an empty file would be taken for the password.
    pki.write_private(path, f"*:*:*:{service}:{password}\n".encode())
    who = account()
    if who is not None:
        os.chown(path, who.pw_uid, who.pw_gid)
    return password
