"""ProjectService."""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa

from animus.catalog.v1 import project_pb2 as pb
from animus.catalog.v1 import project_pb2_grpc
from animus_catalog.domain.entry import update
from animus_catalog.domain.projects import Project, ProjectState, archive, require_active
from animus_catalog.permissions import LIST_PROJECTS
from animus_catalog.service.convert import PROJECT, description, ids, timestamp
from animus_catalog.store import events
from animus_catalog.store import projects as store
from animus_kit import names
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.server.context import CallContext, current
from animus_kit.server.idempotency import once

_STATES = {ProjectState.ACTIVE: pb.Project.STATE_ACTIVE, ProjectState.ARCHIVED: pb.Project.STATE_ARCHIVED}


class Accessible(Protocol):
    """Tells where a caller may do something: animus_kit.server.authz.PolicyAccess."""

    def projects(self, ctx: CallContext, permission: str) -> frozenset[str] | None:
        """Full names; None means every project. Raises PolicyUnavailable."""


class ProjectService(project_pb2_grpc.ProjectServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock, access: Accessible):
        self._engine = engine
        self._clock = clock
        self._access = access

    def GetProject(self, request: pb.GetProjectRequest, context: Any) -> pb.Project:
        (id,) = ids(PROJECT, request.name)
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, id))

    def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        accessible = self._access.projects(current(), LIST_PROJECTS)
        among = None if accessible is None else {names.id_of(name) for name in accessible}
        with transaction(self._engine) as conn:
            found, token = store.page(conn, among, request)
        return pb.ListProjectsResponse(projects=map(_answer, found), next_page_token=token)

    def CreateProject(self, request: pb.CreateProjectRequest, context: Any) -> pb.Project:
        ctx, now = current(), self._clock.now()
        project = Project(request.project_id, description(request.project), ProjectState.ACTIVE, ctx.subject, now, now)

        def act() -> pb.Project:
            store.create(conn, project)
            events.project(conn, ctx, "created", project)
            return _answer(project)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Project, act)

    def UpdateProject(self, request: pb.UpdateProjectRequest, context: Any) -> pb.Project:
        ctx = current()
        (id,) = ids(PROJECT, request.project.name)

        def act() -> pb.Project:
            project = store.get(conn, id, lock=True)
            require_active(project)
            wanted = description(request.project)
            changed = update(project, wanted, request.update_mask.paths, request.project.etag, self._clock.now())
            store.save(conn, changed)
            events.project(conn, ctx, "updated", changed)
            return _answer(changed)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Project, act)

    def ArchiveProject(self, request: pb.ArchiveProjectRequest, context: Any) -> pb.Project:
        ctx = current()
        (id,) = ids(PROJECT, request.name)

        def act() -> pb.Project:
            project = store.get(conn, id, lock=True)
            archived = archive(project, request.etag, self._clock.now())
            if archived is not project:
                store.save(conn, archived)
                events.project(conn, ctx, "archived", archived)
            return _answer(archived)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Project, act)


def _answer(project: Project) -> pb.Project:
    return pb.Project(
        name=project.name,
        display_name=project.description.display_name,
        description=project.description.description,
        labels=project.description.labels,
        state=_STATES[project.state],
        creator=project.creator,
        create_time=timestamp(project.create_time),
        update_time=timestamp(project.update_time),
        etag=project.etag,
    )
