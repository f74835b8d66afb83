"""Model versions. The models themselves are in entries.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from animus_catalog.domain.errors import ResourceNotFound
from animus_catalog.domain.models import ModelVersion, ModelVersionState
from animus_catalog.store.artifacts import fetch_with_metrics, metrics_json, metrics_of
from animus_catalog.store.tables import model_versions as versions
from animus_kit.server.paging import filtered


def get(conn: Connection, project: str, model: str, id: str) -> ModelVersion:
    """Raises ResourceNotFound."""
    row = conn.execute(
        select(versions).where(versions.c.project == project, versions.c.model == model, versions.c.id == id)
    ).one_or_none()
    if row is None:
        raise ResourceNotFound("ModelVersion", f"projects/{project}/models/{model}/versions/{id}")
    return _version(row)


def of_artifact(conn: Connection, project: str, model: str, artifact: str) -> ModelVersion | None:
    """The version of the model that the artifact already is."""
    row = conn.execute(
        select(versions).where(
            versions.c.project == project, versions.c.model == model, versions.c.artifact == artifact
        )
    ).one_or_none()
    return _version(row) if row is not None else None


def page(conn: Connection, project: str, model: str, request: Any) -> tuple[Sequence[ModelVersion], str]:
    """The page that a List request asks for, and the next one's token."""
    query = select(versions).where(versions.c.project == project, versions.c.model == model)
    query = filtered(query, request, create_time=versions.c.create_time, labels=versions.c.labels)
    rows, token = fetch_with_metrics(conn, query, versions, request)
    return [_version(row) for row in rows], token


def create(conn: Connection, version: ModelVersion) -> None:
    """The model's row is locked by the caller, so the number is free."""
    conn.execute(
        insert(versions).values(
            project=version.project,
            model=version.model,
            id=version.id,
            number=version.number,
            artifact=version.artifact,
            manifest_digest=version.manifest_digest,
            run=version.run,
            state=version.state.value,
            metrics=metrics_json(version.metrics),
            description=version.description,
            labels=dict(version.labels),
            creator=version.creator,
            create_time=version.create_time,
            update_time=version.update_time,
            revision=version.revision,
        )
    )


def _version(row: Row) -> ModelVersion:
    return ModelVersion(
        project=row.project,
        model=row.model,
        number=row.number,
        artifact=row.artifact,
        manifest_digest=row.manifest_digest,
        run=row.run,
        state=ModelVersionState(row.state),
        metrics=metrics_of(row.metrics),
        description=row.description,
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
        labels=row.labels,
        revision=row.revision,
    )
