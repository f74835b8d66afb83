"""Code snapshots."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from animus_catalog.domain.code import CodeSnapshot, ObjectFormat
from animus_catalog.domain.errors import ResourceNotFound
from animus_catalog.store.sql import insert_new
from animus_catalog.store.tables import code_snapshots as snapshots
from animus_kit.server.paging import Page, filtered


def get(conn: Connection, project: str, id: str) -> CodeSnapshot:
    """Raises ResourceNotFound."""
    row = conn.execute(select(snapshots).where(snapshots.c.project == project, snapshots.c.id == id)).one_or_none()
    if row is None:
        raise ResourceNotFound("CodeSnapshot", f"projects/{project}/codeSnapshots/{id}")
    return _snapshot(row)


def among(conn: Connection, project: str, ids: Collection[str]) -> dict[str, CodeSnapshot]:
    """Those of the ids that exist, by full name."""
    query = select(snapshots).where(snapshots.c.project == project, snapshots.c.id.in_(sorted(ids)))
    found = [_snapshot(row) for row in conn.execute(query)]
    return {snapshot.name: snapshot for snapshot in found}


def page(conn: Connection, project: str, request: Any) -> tuple[Sequence[CodeSnapshot], str]:
    """The page that a List request asks for, and the next one's token."""
    query = select(snapshots).where(snapshots.c.project == project)
    if request.commit_id:
        query = query.where(snapshots.c.commit_id == request.commit_id)
    query = filtered(query, request, create_time=snapshots.c.create_time, labels=snapshots.c.labels)
    rows, token = Page.parse(request).fetch(conn, query, snapshots.c.create_time, snapshots.c.id)
    return [_snapshot(row) for row in rows], token


def create(conn: Connection, snapshot: CodeSnapshot) -> bool:
    """Returns False, and changes nothing, when the project has a snapshot of that name."""
    values = {
        "project": snapshot.project,
        "id": snapshot.id,
        "object_format": snapshot.object_format.value,
        "commit_id": snapshot.commit_id,
        "tree_id": snapshot.tree_id,
        "manifest_digest": snapshot.manifest_digest,
        "file_count": snapshot.file_count,
        "size": snapshot.size,
        "repository_url": snapshot.repository_url,
        "description": snapshot.description,
        "labels": dict(snapshot.labels),
        "creator": snapshot.creator,
        "create_time": snapshot.create_time,
    }
    return insert_new(conn, snapshots, values)


def _snapshot(row: Row) -> CodeSnapshot:
    return CodeSnapshot(
        project=row.project,
        object_format=ObjectFormat(row.object_format),
        commit_id=row.commit_id,
        tree_id=row.tree_id,
        manifest_digest=row.manifest_digest,
        file_count=row.file_count,
        size=row.size,
        repository_url=row.repository_url,
        description=row.description,
        labels=row.labels,
        creator=row.creator,
        create_time=row.create_time,
    )
