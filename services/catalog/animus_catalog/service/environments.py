"""EnvironmentService."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import environment_pb2 as pb
from animus.catalog.v1 import environment_pb2_grpc
from animus_catalog.blobs.contents import ContentReader, image_contents
from animus_catalog.domain.environments import EnvironmentLock, Package
from animus_catalog.domain.errors import PackagesInvalid
from animus_catalog.service.convert import ENVIRONMENT, ENVIRONMENT_LOCK, ids, timestamp
from animus_catalog.service.entries import Entries
from animus_catalog.store import containers, entries, events, projects
from animus_catalog.store import environments as store
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.documents import environment as documents
from animus_kit.documents.errors import DocumentError
from animus_kit.server.context import current
from animus_kit.server.idempotency import once


class EnvironmentService(environment_pb2_grpc.EnvironmentServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock, contents: ContentReader):
        self._engine = engine
        self._clock = clock
        self._contents = contents
        self._environments = Entries(engine, clock, "Environment", pb.Environment)

    def GetEnvironment(self, request: pb.GetEnvironmentRequest, context: Any) -> pb.Environment:
        return self._environments.get(request.name)

    def ListEnvironments(self, request: pb.ListEnvironmentsRequest, context: Any) -> pb.ListEnvironmentsResponse:
        found, token = self._environments.page(request)
        return pb.ListEnvironmentsResponse(environments=found, next_page_token=token)

    def CreateEnvironment(self, request: pb.CreateEnvironmentRequest, context: Any) -> pb.Environment:
        return self._environments.create(request, request.environment_id, request.environment)

    def UpdateEnvironment(self, request: pb.UpdateEnvironmentRequest, context: Any) -> pb.Environment:
        return self._environments.update(request, request.environment)

    def GetEnvironmentLock(self, request: pb.GetEnvironmentLockRequest, context: Any) -> pb.EnvironmentLock:
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, *ids(ENVIRONMENT_LOCK, request.name)))

    def ListEnvironmentLocks(
        self, request: pb.ListEnvironmentLocksRequest, context: Any
    ) -> pb.ListEnvironmentLocksResponse:
        # The environment may be "-", which is no id; the form of the whole was checked at the door.
        _, project, _, environment = request.parent.split("/")
        with transaction(self._engine) as conn:
            if environment != store.ANY_ENVIRONMENT:
                entries.get(conn, "Environment", project, environment)
            found, token = store.page(conn, project, environment, request)
        return pb.ListEnvironmentLocksResponse(environment_locks=map(_answer, found), next_page_token=token)

    def CreateEnvironmentLock(self, request: pb.CreateEnvironmentLockRequest, context: Any) -> pb.EnvironmentLock:
        ctx = current()
        project, environment = ids(ENVIRONMENT, request.parent)
        with transaction(self._engine) as conn:
            entries.get(conn, "Environment", project, environment)
        image, platform = self._contents.image(project, request.image_digest)
        document = _document(request, platform)
        lock = EnvironmentLock(
            project=project,
            environment=environment,
            document=document.to_bytes(),
            lock_digest=document.digest,
            image_digest=image.digest,
            platform=platform,
            packages=[
                Package(p.kind, p.name, p.version, f"sha256:{p.sha256}" if p.sha256 else "") for p in document.packages
            ],
            size=image.total_size,
            creator=ctx.subject,
            create_time=self._clock.now(),
        )

        def act() -> pb.EnvironmentLock:
            projects.writable(conn, project)
            if not store.create(conn, lock):
                return _answer(store.get(conn, project, environment, lock.id))
            containers.add(conn, project, image_contents(image), containers.IMAGE)
            events.environment_lock_created(conn, ctx, lock)
            return _answer(lock)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.EnvironmentLock, act)


def _document(request: pb.CreateEnvironmentLockRequest, platform: str) -> documents.EnvironmentLock:
    """The lock document; packages are sorted there. Raises PackagesInvalid."""
    try:
        packages = tuple(
            documents.Package(
                kind=p.kind, name=p.name, version=p.version, sha256=p.digest.removeprefix("sha256:") or None
            )
            for p in request.packages
        )
        return documents.EnvironmentLock(image=request.image_digest, platform=platform, packages=packages)
    except DocumentError as error:
        raise PackagesInvalid(str(error)) from None


def _answer(lock: EnvironmentLock) -> pb.EnvironmentLock:
    return pb.EnvironmentLock(
        name=lock.name,
        document=lock.document,
        lock_digest=lock.lock_digest,
        image_digest=lock.image_digest,
        platform=lock.platform,
        packages=[pb.Package(kind=p.kind, name=p.name, version=p.version, digest=p.digest) for p in lock.packages],
        size_bytes=lock.size,
        creator=lock.creator,
        create_time=timestamp(lock.create_time),
    )
