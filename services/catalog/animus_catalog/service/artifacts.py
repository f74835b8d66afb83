"""ArtifactService."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import artifact_pb2 as pb
from animus.catalog.v1 import artifact_pb2_grpc
from animus_catalog.domain.artifacts import Artifact
from animus_catalog.service.convert import ARTIFACT, PROJECT, ids, manifest_entry, metrics, timestamp
from animus_catalog.store import artifacts as store
from animus_catalog.store import containers, projects
from animus_kit.db.engine import transaction


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, engine: sa.Engine):
        self._engine = engine

    def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> pb.Artifact:
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, *ids(ARTIFACT, request.name)))

    def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        (project,) = ids(PROJECT, request.parent)
        with transaction(self._engine) as conn:
            found, token = store.page(conn, project, request)
            if not found:
                projects.get(conn, project)  # nothing in it, and no such project, are two answers
        return pb.ListArtifactsResponse(artifacts=map(_answer, found), next_page_token=token)

    def ListArtifactEntries(
        self, request: pb.ListArtifactEntriesRequest, context: Any
    ) -> pb.ListArtifactEntriesResponse:
        with transaction(self._engine) as conn:
            artifact = store.get(conn, *ids(ARTIFACT, request.parent))
            container = containers.get(conn, artifact.project, artifact.manifest_digest)
            found, token = containers.page(conn, container.id, request)
        return pb.ListArtifactEntriesResponse(entries=map(manifest_entry, found), next_page_token=token)


def _answer(artifact: Artifact) -> pb.Artifact:
    return pb.Artifact(
        name=artifact.name,
        attempt=artifact.attempt,
        run=artifact.run,
        step=artifact.step,
        output=artifact.output,
        type=artifact.type,
        media_type=artifact.media_type,
        manifest_digest=artifact.manifest_digest,
        file_count=artifact.file_count,
        size_bytes=artifact.size,
        metrics=metrics(artifact.metrics),
        create_time=timestamp(artifact.create_time),
    )
