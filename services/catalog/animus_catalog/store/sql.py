"""Two turns of SQL that several queries need."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, Text, any_, cast, literal_column
from sqlalchemy.dialects.postgresql import ARRAY, insert


def any_text(values: Collection[str]) -> ColumnElement:
    """For `column == any_text(values)`: one array parameter, however many values there are."""
    return any_(cast(list(values), ARRAY(Text)))


def insert_new(conn: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Inserts a row; returns False, and changes nothing, when its key is taken."""
    # Asked by RETURNING: SQLAlchemy does not keep the row count of an INSERT.
    statement = insert(table).values(values).on_conflict_do_nothing().returning(literal_column("1"))
    return conn.execute(statement).first() is not None
