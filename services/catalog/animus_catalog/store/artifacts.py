"""Artifacts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from animus.type.v1.list_order_pb2 import ListOrder
from animus_catalog.domain.artifacts import Artifact, Metric
from animus_catalog.domain.errors import ResourceNotFound
from animus_catalog.store.sql import insert_new
from animus_catalog.store.tables import artifacts
from animus_kit.server.paging import Page, filtered

PAGE_METRICS = 10_000
"""Of all rows of a page: one row may have 1,000, each with a name of 128 bytes."""


def get(conn: Connection, project: str, id: str) -> Artifact:
    """Raises ResourceNotFound."""
    found = find(conn, project, id)
    if found is None:
        raise ResourceNotFound("Artifact", f"projects/{project}/artifacts/{id}")
    return found


def find(conn: Connection, project: str, id: str) -> Artifact | None:
    row = conn.execute(select(artifacts).where(artifacts.c.project == project, artifacts.c.id == id)).one_or_none()
    return _artifact(row) if row is not None else None


def existing(conn: Connection, project: str, ids: Collection[str]) -> set[str]:
    """Those of the ids that exist."""
    query = select(artifacts.c.id).where(artifacts.c.project == project, artifacts.c.id.in_(sorted(ids)))
    return set(conn.scalars(query))


def page(conn: Connection, project: str, request: Any) -> tuple[Sequence[Artifact], str]:
    """The page that a List request asks for, and the next one's token."""
    query = select(artifacts).where(artifacts.c.project == project)
    if request.run:
        query = query.where(artifacts.c.run == request.run)
    if request.type:
        query = query.where(artifacts.c.type == request.type)
    query = filtered(query, request, create_time=artifacts.c.create_time)
    rows, token = fetch_with_metrics(conn, query, artifacts, request)
    return [_artifact(row) for row in rows], token


def create(conn: Connection, artifact: Artifact) -> bool:
    """Returns False, and changes nothing, when the artifact is there: a commit event may come twice."""
    values = {
        "project": artifact.project,
        "id": artifact.id,
        "attempt": artifact.attempt,
        "run": artifact.run,
        "step": artifact.step,
        "output": artifact.output,
        "type": artifact.type,
        "media_type": artifact.media_type,
        "manifest_digest": artifact.manifest_digest,
        "file_count": artifact.file_count,
        "size": artifact.size,
        "metrics": metrics_json(artifact.metrics),
        "create_time": artifact.create_time,
    }
    return insert_new(conn, artifacts, values)


def fetch_with_metrics(conn: Connection, query: Select, table: Table, request: Any) -> tuple[Sequence[Row], str]:
    """As Page.fetch. A page ends where its rows have PAGE_METRICS, so that an answer stays below what clients take."""
    page = Page.parse(request)
    rows, token = page.fetch(conn, query, table.c.create_time, table.c.id)
    shown, metrics = 0, 0
    while shown < len(rows) and metrics < PAGE_METRICS:
        metrics += len(rows[shown].metrics)
        shown += 1
    if shown < len(rows):
        last = rows[shown - 1]
        by_name = page.order == ListOrder.LIST_ORDER_NAME_ASC
        token = page.token(last.id) if by_name else page.token(last.create_time, last.id)
    return rows[:shown], token


def metrics_json(metrics: Sequence[Metric]) -> list[dict]:
    return [{"name": metric.name, "value": metric.value} for metric in metrics]


def metrics_of(value: list[dict]) -> list[Metric]:
    return [Metric(item["name"], float(item["value"])) for item in value]


def _artifact(row: Row) -> Artifact:
    return Artifact(
        project=row.project,
        id=row.id,
        attempt=row.attempt,
        run=row.run,
        step=row.step,
        output=row.output,
        type=row.type,
        media_type=row.media_type,
        manifest_digest=row.manifest_digest,
        file_count=row.file_count,
        size=row.size,
        metrics=metrics_of(row.metrics),
        create_time=row.create_time,
    )
