"""`animus.orchestrator.v1.PipelineService`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from animus.orchestrator.v1 import pipeline_pb2 as pb
from animus.orchestrator.v1 import pipeline_pb2_grpc as pb_grpc
from animus.type.v1 import problem_pb2
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.errors import FieldViolation
from animus_kit.names import parse
from animus_kit.server import context
from animus_kit.server.idempotency import once
from animus_orchestrator.domain import errors
from animus_orchestrator.domain.pipeline import PipelineInvalid as InvalidDocument
from animus_orchestrator.domain.pipeline import load as load_pipeline
from animus_orchestrator.domain.pipeline.document import PipelineDocument
from animus_orchestrator.domain.pipeline.problem import Problem
from animus_orchestrator.service import convert
from animus_orchestrator.store import pipelines as store

_MUTABLE = ("display_name", "description", "labels")


class PipelineService(pb_grpc.PipelineServiceServicer):
    def __init__(self, engine: Engine, clock: Clock):
        self._engine = engine
        self._clock = clock

    def GetPipeline(self, request: pb.GetPipelineRequest, _: Any) -> pb.Pipeline:
        with transaction(self._engine) as conn:
            return convert.pipeline(_get(conn, request.name))

    def ListPipelines(self, request: pb.ListPipelinesRequest, _: Any) -> pb.ListPipelinesResponse:
        with transaction(self._engine) as conn:
            found, token = store.page(conn, request.parent.removeprefix("projects/"), request)
        return pb.ListPipelinesResponse(pipelines=map(convert.pipeline, found), next_page_token=token)

    def CreatePipeline(self, request: pb.CreatePipelineRequest, _: Any) -> pb.Pipeline:
        ctx, now = context.current(), self._clock.now()
        one = store.Pipeline(
            project=request.parent.removeprefix("projects/"),
            id=request.pipeline_id,
            display_name=request.pipeline.display_name,
            description=request.pipeline.description,
            labels=dict(request.pipeline.labels),
            latest_version=0,
            creator=ctx.subject,
            create_time=now,
            update_time=now,
            revision=1,
        )

        def create() -> pb.Pipeline:
            name = f"{request.parent}/pipelines/{one.id}"
            if not store.insert(conn, one):
                raise errors.PipelineExists(f"{name} exists", resource=("animus.dev/Pipeline", name))
            payload = {"displayName": one.display_name, "labels": one.labels}
            emit(conn, "orchestrator.pipeline.created", request.parent, name, ctx.actor, payload, ctx.request_id)
            return convert.pipeline(one)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Pipeline, create)

    def UpdatePipeline(self, request: pb.UpdatePipelineRequest, _: Any) -> pb.Pipeline:
        ctx = context.current()
        changes = _masked(request)

        def update() -> pb.Pipeline:
            one = _get(conn, request.pipeline.name, lock=True)
            if request.pipeline.etag and request.pipeline.etag != str(one.revision):
                raise errors.EtagMismatch(f"{request.pipeline.name} has changed: read it again")
            one = replace(one, **changes, update_time=self._clock.now(), revision=one.revision + 1)
            store.update(conn, one)
            emit(
                conn,
                "orchestrator.pipeline.updated",
                f"projects/{one.project}",
                request.pipeline.name,
                ctx.actor,
                {"fields": sorted(changes)},
                ctx.request_id,
            )
            return convert.pipeline(one)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Pipeline, update)

    def GetPipelineVersion(self, request: pb.GetPipelineVersionRequest, _: Any) -> pb.PipelineVersion:
        with transaction(self._engine) as conn:
            return convert.pipeline_version(get_version(conn, request.name))

    def ListPipelineVersions(self, request: pb.ListPipelineVersionsRequest, _: Any) -> pb.ListPipelineVersionsResponse:
        with transaction(self._engine) as conn:
            one = _get(conn, request.parent)
            found, token = store.page_versions(conn, one.project, one.id, request)
        return pb.ListPipelineVersionsResponse(
            pipeline_versions=map(convert.pipeline_version, found), next_page_token=token
        )

    def CreatePipelineVersion(self, request: pb.CreatePipelineVersionRequest, _: Any) -> pb.PipelineVersion:
        ctx = context.current()
        document = _load(request.document, request.media_type)

        def create() -> pb.PipelineVersion:
            one = _get(conn, request.parent, lock=True)
            newest = store.get_version(conn, one.project, one.id, one.latest_version) if one.latest_version else None
            if newest is not None and newest.pipeline_digest == document.digest:
                return convert.pipeline_version(newest)
            now = self._clock.now()
            version = store.PipelineVersion(
                project=one.project,
                pipeline=one.id,
                number=one.latest_version + 1,
                media_type=request.media_type,
                pipeline_digest=document.digest,
                creator=ctx.subject,
                create_time=now,
                document=request.document,
                canonical_document=document.canonical,
            )
            store.insert_version(conn, version)
            store.update(conn, replace(one, latest_version=version.number, update_time=now, revision=one.revision + 1))
            answer = convert.pipeline_version(version)
            emit(
                conn,
                "orchestrator.pipeline-version.created",
                f"projects/{one.project}",
                answer.name,
                ctx.actor,
                {"pipelineDigest": document.digest, "apiVersion": document.api_version},
                ctx.request_id,
            )
            return answer

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.PipelineVersion, create)

    def ValidatePipeline(self, request: pb.ValidatePipelineRequest, _: Any) -> pb.ValidatePipelineResponse:
        try:
            document = load_pipeline(request.document, request.media_type)
        except InvalidDocument as invalid:
            return pb.ValidatePipelineResponse(problems=problems(invalid.problems))
        return pb.ValidatePipelineResponse(pipeline_digest=document.digest, canonical_document=document.canonical)


def problems(found: Iterable[Problem]) -> list[problem_pb2.Problem]:
    return [
        problem_pb2.Problem(line=p.line, column=p.column, path=p.path, reason=p.reason, message=p.message)
        for p in found
    ]


def get_version(conn: Connection, name: str) -> store.PipelineVersion:
    """Raises: PipelineVersionNotFound."""
    project, pipeline, number = convert.version_name(name)
    found = store.get_version(conn, project, pipeline, number) if number else None
    if found is None:
        raise errors.PipelineVersionNotFound(f"{name} does not exist", resource=("animus.dev/PipelineVersion", name))
    return found


def _get(conn: Connection, name: str, *, lock: bool = False) -> store.Pipeline:
    ids = parse("projects/{project}/pipelines/{pipeline}", name)
    found = store.get(conn, ids["project"], ids["pipeline"], lock=lock)
    if found is None:
        raise errors.PipelineNotFound(f"{name} does not exist", resource=("animus.dev/Pipeline", name))
    return found


def _load(data: bytes, media_type: str) -> PipelineDocument:
    try:
        return load_pipeline(data, media_type)
    except InvalidDocument as invalid:
        raise errors.PipelineInvalid(
            str(invalid),
            violations=[
                FieldViolation(f"document:{p.line}:{p.column}:{p.path}", p.reason, p.message) for p in invalid.problems
            ],
        ) from None


def _masked(request: pb.UpdatePipelineRequest) -> dict[str, Any]:
    """What to change. An empty mask means every mutable field that is set."""
    paths = set(request.update_mask.paths)
    if unknown := paths - set(_MUTABLE):
        raise errors.MaskInvalid(
            f"{min(unknown)} cannot be changed",
            violations=[FieldViolation("update_mask", "FIELD_NOT_MUTABLE", f"one of {', '.join(_MUTABLE)}")],
        )
    given = {
        "display_name": request.pipeline.display_name,
        "description": request.pipeline.description,
        "labels": dict(request.pipeline.labels),
    }
    return {f: v for f, v in given.items() if f in paths or (not paths and v)}
