"""What the catalog says to the log. Called in the transaction that makes it true, after the row's lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from animus_catalog.domain.artifacts import Artifact
from animus_catalog.domain.code import CodeSnapshot
from animus_catalog.domain.datasets import DatasetVersion
from animus_catalog.domain.entry import Entry
from animus_catalog.domain.environments import EnvironmentLock
from animus_catalog.domain.models import ModelVersion
from animus_catalog.domain.projects import Project
from animus_kit.db import outbox
from animus_kit.server.context import CallContext

SELF = "service/catalog"


def project(conn: Connection, ctx: CallContext, what: str, project: Project) -> None:
    """what: created, updated or archived."""
    body = {
        "name": project.name,
        "displayName": project.description.display_name,
        "labels": dict(project.description.labels),
        "state": project.state.value,
    }
    _emit(conn, ctx, f"catalog.project.{what}", project.name, project.name, body)


def entry(conn: Connection, ctx: CallContext, what: str, entry: Entry) -> None:
    """what: created or updated."""
    body = {
        "name": entry.name,
        "displayName": entry.description.display_name,
        "labels": dict(entry.description.labels),
    }
    _emit(conn, ctx, f"catalog.{entry.noun.lower()}.{what}", f"projects/{entry.project}", entry.name, body)


def dataset_version_created(conn: Connection, ctx: CallContext, version: DatasetVersion) -> None:
    body = {
        "name": version.name,
        "dataset": f"projects/{version.project}/datasets/{version.dataset}",
        "manifestDigest": version.manifest_digest,
        "files": version.file_count,
        "bytes": str(version.size),
        "parents": list(version.parents),
        "source": version.source,
        "labels": dict(version.labels),
    }
    _emit(conn, ctx, "catalog.dataset-version.created", f"projects/{version.project}", version.name, body)


def code_snapshot_created(conn: Connection, ctx: CallContext, snapshot: CodeSnapshot) -> None:
    body = {
        "name": snapshot.name,
        "objectFormat": snapshot.object_format.value,
        "commitId": snapshot.commit_id,
        "treeId": snapshot.tree_id,
        "manifestDigest": snapshot.manifest_digest,
        "files": snapshot.file_count,
        "bytes": str(snapshot.size),
        "repositoryUrl": snapshot.repository_url,
        "labels": dict(snapshot.labels),
    }
    _emit(conn, ctx, "catalog.code-snapshot.created", f"projects/{snapshot.project}", snapshot.name, body)


def environment_lock_created(conn: Connection, ctx: CallContext, lock: EnvironmentLock) -> None:
    body = {
        "name": lock.name,
        "environment": f"projects/{lock.project}/environments/{lock.environment}",
        "lockDigest": lock.lock_digest,
        "imageDigest": lock.image_digest,
        "platform": lock.platform,
        "packages": len(lock.packages),
        "bytes": str(lock.size),
    }
    _emit(conn, ctx, "catalog.environment-lock.created", f"projects/{lock.project}", lock.name, body)


def model_version_created(conn: Connection, ctx: CallContext, version: ModelVersion) -> None:
    body = {
        "name": version.name,
        "model": f"projects/{version.project}/models/{version.model}",
        "artifact": version.artifact,
        "manifestDigest": version.manifest_digest,
        "run": version.run,
        "state": version.state.value,
        "metrics": {metric.name: metric.value for metric in version.metrics},
        "labels": dict(version.labels),
    }
    _emit(conn, ctx, "catalog.model-version.created", f"projects/{version.project}", version.name, body)


def artifact_created(conn: Connection, artifact: Artifact, request_id: str) -> None:
    body = {
        "name": artifact.name,
        "run": artifact.run,
        "step": artifact.step,
        "attempt": artifact.attempt,
        "output": artifact.output,
        "artifactType": artifact.type,
        "mediaType": artifact.media_type,
        "manifestDigest": artifact.manifest_digest,
        "files": artifact.file_count,
        "bytes": str(artifact.size),
        "metrics": {metric.name: metric.value for metric in artifact.metrics},
    }
    project = f"projects/{artifact.project}"
    outbox.emit(conn, "catalog.artifact.created", project, artifact.name, SELF, body, request_id)


def _emit(
    conn: Connection, ctx: CallContext, event_type: str, project: str, resource: str, body: Mapping[str, Any]
) -> None:
    outbox.emit(conn, event_type, project, resource, ctx.actor, body, ctx.request_id)
