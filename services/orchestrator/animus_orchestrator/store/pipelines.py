"""Pipelines and their immutable versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql as pg

from animus_kit.server.paging import Page, filtered
from animus_orchestrator.store.schema import pipeline_versions, pipelines


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`latest_version` is 0 before the first."""

    project: str
    id: str
    display_name: str
    description: str
    labels: dict[str, str]
    latest_version: int
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """The documents are empty where a list was read."""

    project: str
    pipeline: str
    number: int
    media_type: str
    pipeline_digest: str
    creator: str
    create_time: datetime
    document: bytes = b""
    canonical_document: bytes = b""


def _pipeline(row: Any) -> Pipeline:
    return Pipeline(**{**row._mapping, "labels": dict(row.labels)})


def get(conn: Connection, project: str, pipeline_id: str, *, lock: bool = False) -> Pipeline | None:
    query = sa.select(pipelines).where(pipelines.c.project == project, pipelines.c.id == pipeline_id)
    row = conn.execute(query.with_for_update() if lock else query).first()
    return _pipeline(row) if row else None


def page(conn: Connection, project: str, request: Any) -> tuple[list[Pipeline], str]:
    query = filtered(
        sa.select(pipelines).where(pipelines.c.project == project),
        request,
        create_time=pipelines.c.create_time,
        labels=pipelines.c.labels,
    )
    rows, token = Page.parse(request).fetch(conn, query, pipelines.c.create_time, pipelines.c.id)
    return [_pipeline(row) for row in rows], token


def insert(conn: Connection, one: Pipeline) -> bool:
    """False when the name is taken."""
    values = {f: getattr(one, f) for f in one.__slots__}
    statement = pg.insert(pipelines).values(values).on_conflict_do_nothing().returning(pipelines.c.id)
    return conn.execute(statement).first() is not None


def update(conn: Connection, one: Pipeline) -> None:
    conn.execute(
        sa.update(pipelines)
        .where(pipelines.c.project == one.project, pipelines.c.id == one.id)
        .values(
            display_name=one.display_name,
            description=one.description,
            labels=one.labels,
            latest_version=one.latest_version,
            update_time=one.update_time,
            revision=one.revision,
        )
    )


def get_version(conn: Connection, project: str, pipeline_id: str, number: int) -> PipelineVersion | None:
    query = sa.select(pipeline_versions).where(
        pipeline_versions.c.project == project,
        pipeline_versions.c.pipeline == pipeline_id,
        pipeline_versions.c.number == number,
    )
    row = conn.execute(query).first()
    return PipelineVersion(**row._mapping) if row else None


def page_versions(conn: Connection, project: str, pipeline_id: str, request: Any) -> tuple[list[PipelineVersion], str]:
    c = pipeline_versions.c
    query = sa.select(c.project, c.pipeline, c.number, c.media_type, c.pipeline_digest, c.creator, c.create_time).where(
        c.project == project, c.pipeline == pipeline_id
    )
    # By number rather than by name: v10 comes after v9.
    rows, token = Page.parse(request).fetch(conn, query, c.create_time, c.number)
    return [PipelineVersion(**row._mapping) for row in rows], token


def insert_version(conn: Connection, one: PipelineVersion) -> None:
    conn.execute(sa.insert(pipeline_versions).values({f: getattr(one, f) for f in one.__slots__}))
