"""Many rows with one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from psycopg import sql

COPY_FROM = 8
"""From so many rows on COPY is faster than an INSERT of each: two round trips, and no statement for each row."""


def insert(conn: sa.Connection, table: sa.TableClause, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows that all have the same columns; those they leave out get their defaults."""
    if not rows:
        return
    if len(rows) < COPY_FROM:
        conn.execute(sa.insert(table), [dict(row) for row in rows])
        return
    columns = list(rows[0])
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with conn.connection.cursor() as cursor, cursor.copy(statement) as copy:  # type: ignore[attr-defined]
        for row in rows:
            copy.write_row([row[column] for column in columns])


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the JSON that `json_to_recordset` reads; times become text."""
    return json.dumps(rows, default=str)
