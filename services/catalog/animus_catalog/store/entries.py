"""Datasets, environments, experiments and models: four tables of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select, update

from animus_catalog.domain.entry import COLLECTIONS, Description, Entry
from animus_catalog.domain.errors import ResourceExists, ResourceNotFound
from animus_catalog.store import tables
from animus_catalog.store.sql import insert_new
from animus_kit.server.paging import Page, filtered

TABLES: Mapping[str, Table] = {
    "Dataset": tables.datasets,
    "Environment": tables.environments,
    "Experiment": tables.experiments,
    "Model": tables.models,
}


def get(conn: Connection, noun: str, project: str, id: str, lock: bool = False) -> Entry:
    """Raises ResourceNotFound. With lock, versions and updates of the entry wait for this transaction."""
    table = TABLES[noun]
    query = select(table).where(table.c.project == project, table.c.id == id)
    row = conn.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise ResourceNotFound(noun, _name(noun, project, id))
    return _entry(noun, row)


def exists(conn: Connection, noun: str, project: str, id: str) -> bool:
    table = TABLES[noun]
    return conn.scalar(select(func.count()).where(table.c.project == project, table.c.id == id)) > 0


def page(conn: Connection, noun: str, project: str, request: Any) -> tuple[Sequence[Entry], str]:
    """The page that a List request asks for, and the next one's token."""
    table = TABLES[noun]
    query = select(table).where(table.c.project == project)
    query = filtered(query, request, create_time=table.c.create_time, labels=table.c.labels)
    rows, token = Page.parse(request).fetch(conn, query, table.c.create_time, table.c.id)
    return [_entry(noun, row) for row in rows], token


def create(conn: Connection, entry: Entry) -> None:
    """Raises ResourceExists."""
    values = {"project": entry.project, "id": entry.id, "latest": entry.latest, **described(entry)}
    if not insert_new(conn, TABLES[entry.noun], values):
        raise ResourceExists(entry.noun, entry.name)


def save(conn: Connection, entry: Entry) -> None:
    """Writes an entry that was read with lock."""
    table = TABLES[entry.noun]
    conn.execute(
        update(table)
        .where(table.c.project == entry.project, table.c.id == entry.id)
        .values(latest=entry.latest, **described(entry))
    )


def described(resource: Any) -> dict[str, Any]:
    """The columns that every described resource has."""
    return {
        "display_name": resource.description.display_name,
        "description": resource.description.description,
        "labels": dict(resource.description.labels),
        "creator": resource.creator,
        "create_time": resource.create_time,
        "update_time": resource.update_time,
        "revision": resource.revision,
    }


def description(row: Row) -> Description:
    return Description(row.display_name, row.description, row.labels)


def _entry(noun: str, row: Row) -> Entry:
    return Entry(
        noun=noun,
        project=row.project,
        id=row.id,
        description=description(row),
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
        revision=row.revision,
        latest=row.latest,
    )


def _name(noun: str, project: str, id: str) -> str:
    return f"projects/{project}/{COLLECTIONS[noun]}/{id}"
