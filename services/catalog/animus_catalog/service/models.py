"""ModelService."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import model_pb2 as pb
from animus.catalog.v1 import model_pb2_grpc
from animus_catalog.domain.errors import ArtifactNotCommitted, ReferenceOutsideProject
from animus_catalog.domain.models import ModelVersion, ModelVersionState, register
from animus_catalog.service.convert import ARTIFACT, MODEL, MODEL_VERSION, ids, metrics, timestamp
from animus_catalog.service.entries import Entries
from animus_catalog.store import artifacts, entries, events, projects
from animus_catalog.store import models as store
from animus_kit import names
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.server.context import current
from animus_kit.server.idempotency import once

_STATES = {ModelVersionState.REGISTERED: pb.ModelVersion.STATE_REGISTERED}


class ModelService(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock):
        self._engine = engine
        self._clock = clock
        self._models = Entries(engine, clock, "Model", pb.Model)

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        return self._models.get(request.name)

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        found, token = self._models.page(request)
        return pb.ListModelsResponse(models=found, next_page_token=token)

    def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.Model:
        return self._models.create(request, request.model_id, request.model)

    def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.Model:
        return self._models.update(request, request.model)

    def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Any) -> pb.ModelVersion:
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, *ids(MODEL_VERSION, request.name)))

    def ListModelVersions(self, request: pb.ListModelVersionsRequest, context: Any) -> pb.ListModelVersionsResponse:
        project, model = ids(MODEL, request.parent)
        with transaction(self._engine) as conn:
            entries.get(conn, "Model", project, model)
            found, token = store.page(conn, project, model, request)
        return pb.ListModelVersionsResponse(model_versions=map(_answer, found), next_page_token=token)

    def CreateModelVersion(self, request: pb.CreateModelVersionRequest, context: Any) -> pb.ModelVersion:
        ctx = current()
        project, model = ids(MODEL, request.parent)
        wanted = request.model_version
        if names.project_of(wanted.artifact) != f"projects/{project}":
            raise ReferenceOutsideProject("model_version.artifact", wanted.artifact, f"projects/{project}")

        def act() -> pb.ModelVersion:
            projects.writable(conn, project)
            entry = entries.get(conn, "Model", project, model, lock=True)
            artifact = artifacts.find(conn, *ids(ARTIFACT, wanted.artifact))
            if artifact is None:
                raise ArtifactNotCommitted(wanted.artifact)
            already = store.of_artifact(conn, project, model, artifact.name)
            if already is not None:
                return _answer(already)
            version = register(
                artifact,
                model,
                entry.latest + 1,
                wanted.description,
                dict(wanted.labels),
                ctx.subject,
                self._clock.now(),
            )
            store.create(conn, version)
            self._models.with_version(conn, entry)
            events.model_version_created(conn, ctx, version)
            return _answer(version)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.ModelVersion, act)


def _answer(version: ModelVersion) -> pb.ModelVersion:
    return pb.ModelVersion(
        name=version.name,
        artifact=version.artifact,
        manifest_digest=version.manifest_digest,
        run=version.run,
        state=_STATES[version.state],
        metrics=metrics(version.metrics),
        description=version.description,
        labels=version.labels,
        creator=version.creator,
        create_time=timestamp(version.create_time),
        update_time=timestamp(version.update_time),
        etag=version.etag,
    )
