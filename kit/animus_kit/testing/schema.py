"""The kit's own tables, for tests that need no service."""

from __future__ import annotations

import psycopg
import sqlalchemy as sa

from animus_kit.db import outbox, tail
from animus_kit.db.migrate import _finish
from animus_kit.server import idempotency
from animus_kit.testing.postgres import Database


def create_kit_tables(database: Database, service: str) -> None:
    """Makes outbox, requests and tail cursors in the service's schema, with the rights that a migration gives."""
    metadata = sa.MetaData()
    outbox.tables(metadata)
    idempotency.tables(metadata)
    tail.tables(metadata)
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database.admin_dsn), poolclass=sa.NullPool
    )
    with engine.begin() as conn:
        conn.exec_driver_sql(f"SET LOCAL ROLE {service}_owner")
        conn.exec_driver_sql(f"SET LOCAL search_path = {service}")
        metadata.create_all(conn)
        _finish(conn, service)
    engine.dispose()
