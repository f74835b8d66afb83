"""CodeService."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import code_pb2 as pb
from animus.catalog.v1 import code_pb2_grpc
from animus_catalog.blobs.contents import ContentReader
from animus_catalog.blobs.git_check import GitVerifier
from animus_catalog.domain.code import CodeSnapshot, ObjectFormat
from animus_catalog.domain.errors import ResourceExists
from animus_catalog.service.convert import CODE_SNAPSHOT, PROJECT, ids, manifest_entry, timestamp
from animus_catalog.store import code as store
from animus_catalog.store import containers, events, projects
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.documents import manifest
from animus_kit.server.context import current
from animus_kit.server.idempotency import once

_FORMATS = {
    pb.CodeSnapshot.OBJECT_FORMAT_SHA1: ObjectFormat.SHA1,
    pb.CodeSnapshot.OBJECT_FORMAT_SHA256: ObjectFormat.SHA256,
}
_WIRE_FORMATS = {fmt: number for number, fmt in _FORMATS.items()}


class CodeService(code_pb2_grpc.CodeServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock, contents: ContentReader, verifier: GitVerifier):
        self._engine = engine
        self._clock = clock
        self._contents = contents
        self._verifier = verifier

    def GetCodeSnapshot(self, request: pb.GetCodeSnapshotRequest, context: Any) -> pb.CodeSnapshot:
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, *ids(CODE_SNAPSHOT, request.name)))

    def ListCodeSnapshots(self, request: pb.ListCodeSnapshotsRequest, context: Any) -> pb.ListCodeSnapshotsResponse:
        (project,) = ids(PROJECT, request.parent)
        with transaction(self._engine) as conn:
            found, token = store.page(conn, project, request)
            if not found:
                projects.get(conn, project)  # nothing in it, and no such project, are two answers
        return pb.ListCodeSnapshotsResponse(code_snapshots=map(_answer, found), next_page_token=token)

    def CreateCodeSnapshot(self, request: pb.CreateCodeSnapshotRequest, context: Any) -> pb.CodeSnapshot:
        ctx = current()
        (project,) = ids(PROJECT, request.parent)
        wanted = request.code_snapshot
        fmt = _FORMATS[wanted.object_format]
        contents = self._contents.manifest(project, wanted.manifest_digest, manifest.CODE)
        tree = self._verifier.verify(fmt, wanted.commit_id, request.commit_object, list(contents.read()))
        snapshot = CodeSnapshot(
            project=project,
            object_format=fmt,
            commit_id=wanted.commit_id,
            tree_id=tree,
            manifest_digest=contents.digest,
            file_count=contents.file_count,
            size=contents.size,
            repository_url=wanted.repository_url,
            description=wanted.description,
            labels=dict(wanted.labels),
            creator=ctx.subject,
            create_time=self._clock.now(),
        )

        def act() -> pb.CodeSnapshot:
            projects.writable(conn, project)
            if not store.create(conn, snapshot):
                return _answer(_same(store.get(conn, project, snapshot.id), snapshot))
            containers.add(conn, project, contents)
            events.code_snapshot_created(conn, ctx, snapshot)
            return _answer(snapshot)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.CodeSnapshot, act)

    def ListCodeSnapshotEntries(
        self, request: pb.ListCodeSnapshotEntriesRequest, context: Any
    ) -> pb.ListCodeSnapshotEntriesResponse:
        with transaction(self._engine) as conn:
            snapshot = store.get(conn, *ids(CODE_SNAPSHOT, request.parent))
            container = containers.get(conn, snapshot.project, snapshot.manifest_digest)
            found, token = containers.page(conn, container.id, request)
        return pb.ListCodeSnapshotEntriesResponse(entries=map(manifest_entry, found), next_page_token=token)


def _same(first: CodeSnapshot, pushed: CodeSnapshot) -> CodeSnapshot:
    """Returns the first, which a second push of the same commit answers.

    Raises ResourceExists when a name stands for something else: two commits that agree in 40 digits, or a collision
    of SHA-1 with another content.
    """
    if (first.commit_id, first.manifest_digest) != (pushed.commit_id, pushed.manifest_digest):
        raise ResourceExists("CodeSnapshot", first.name)
    return first


def _answer(snapshot: CodeSnapshot) -> pb.CodeSnapshot:
    return pb.CodeSnapshot(
        name=snapshot.name,
        object_format=_WIRE_FORMATS[snapshot.object_format],
        commit_id=snapshot.commit_id,
        tree_id=snapshot.tree_id,
        manifest_digest=snapshot.manifest_digest,
        file_count=snapshot.file_count,
        size_bytes=snapshot.size,
        repository_url=snapshot.repository_url,
        description=snapshot.description,
        labels=snapshot.labels,
        creator=snapshot.creator,
        create_time=timestamp(snapshot.create_time),
    )
