"""ResolutionService: what a run's bindings stand for, for the orchestrator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import resolution_pb2 as pb
from animus.catalog.v1 import resolution_pb2_grpc
from animus_catalog.blobs.contents import ContentReader
from animus_catalog.domain.errors import BlobNotInProject, ImageIndexDigest, ImageInvalid, ResourceNotFound
from animus_catalog.domain.projects import ProjectState
from animus_catalog.service.convert import CODE_SNAPSHOT, DATASET_VERSION, EXPERIMENT, PROJECT, ids
from animus_catalog.store import code, datasets, entries, environments, projects, storage
from animus_kit import names
from animus_kit.db.engine import transaction
from animus_kit.names import InvalidName

_Resolved = pb.ResolveBindingsResponse.ResolvedManifest
_Image = pb.ResolveBindingsResponse.ResolvedImage
_Unresolved = pb.ResolveBindingsResponse.Unresolved


class ResolutionService(resolution_pb2_grpc.ResolutionServiceServicer):
    def __init__(self, engine: sa.Engine, contents: ContentReader):
        self._engine = engine
        self._contents = contents

    def ResolveBindings(self, request: pb.ResolveBindingsRequest, context: Any) -> pb.ResolveBindingsResponse:
        (project,) = ids(PROJECT, request.project)
        answer = pb.ResolveBindingsResponse()
        with transaction(self._engine) as conn:
            # One snapshot for all of a run's references.
            conn.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            try:
                found = projects.get(conn, project)
            except ResourceNotFound as error:
                answer.unresolved.add(reference=request.project, reason=error.reason, message=error.message)
                return answer
            if found.state is ProjectState.ARCHIVED:
                _problem(answer, request.project, "PROJECT_ARCHIVED", "the project is archived: nothing runs in it")
            self._datasets(conn, project, request.dataset_versions, answer)
            self._code(conn, project, request.code_snapshots, answer)
            unlocked = self._images(conn, project, request.image_digests, answer)
            if request.experiment:
                self._experiment(conn, project, request.experiment, answer)
        for digest in unlocked:
            # Reads a blob, so outside of the transaction.
            answer.unresolved.append(self._why_unlocked(project, digest))
        return answer

    def GetStoredBytes(self, request: pb.GetStoredBytesRequest, context: Any) -> pb.GetStoredBytesResponse:
        (project,) = ids(PROJECT, request.project)
        with transaction(self._engine) as conn:
            return pb.GetStoredBytesResponse(stored_bytes=storage.stored(conn, project))

    def _datasets(self, conn: sa.Connection, project: str, wanted: Iterable[str], answer: Any) -> None:
        keys = _keys(project, wanted, DATASET_VERSION, "DATASET_VERSION_NOT_FOUND", answer)
        found = datasets.among(conn, project, {(dataset, version) for dataset, version in keys.values()})
        for name in keys:
            if name in found:
                version = found[name]
                answer.dataset_versions.append(
                    _Resolved(name=name, manifest_digest=version.manifest_digest, size_bytes=version.size)
                )
            else:
                _problem(answer, name, "DATASET_VERSION_NOT_FOUND", "there is no such dataset version")

    def _code(self, conn: sa.Connection, project: str, wanted: Iterable[str], answer: Any) -> None:
        keys = _keys(project, wanted, CODE_SNAPSHOT, "CODE_SNAPSHOT_NOT_FOUND", answer)
        found = code.among(conn, project, {id for (id,) in keys.values()})
        for name in keys:
            if name in found:
                snapshot = found[name]
                answer.code_snapshots.append(
                    _Resolved(name=name, manifest_digest=snapshot.manifest_digest, size_bytes=snapshot.size)
                )
            else:
                _problem(answer, name, "CODE_SNAPSHOT_NOT_FOUND", "there is no such code snapshot")

    def _images(self, conn: sa.Connection, project: str, wanted: Iterable[str], answer: Any) -> list[str]:
        """Returns the digests that no lock is of."""
        digests = list(dict.fromkeys(wanted))
        locks = environments.newest_by_image(conn, project, digests)
        for digest in digests:
            if digest in locks:
                lock = locks[digest]
                answer.images.append(
                    _Image(
                        image_digest=digest,
                        environment_lock=lock.name,
                        lock_digest=lock.lock_digest,
                        platform=lock.platform,
                    )
                )
        return [digest for digest in digests if digest not in locks]

    def _experiment(self, conn: sa.Connection, project: str, wanted: str, answer: Any) -> None:
        keys = _keys(project, [wanted], EXPERIMENT, "EXPERIMENT_NOT_FOUND", answer)
        for name, (id,) in keys.items():
            if not entries.exists(conn, "Experiment", project, id):
                _problem(answer, name, "EXPERIMENT_NOT_FOUND", "there is no such experiment")

    def _why_unlocked(self, project: str, digest: str) -> Any:
        try:
            self._contents.image(project, digest)
        except ImageIndexDigest as error:
            return _Unresolved(reference=digest, reason=error.reason, message=error.message)
        except (BlobNotInProject, ImageInvalid):
            pass
        message = "no environment lock of the project is of this image: import it first"
        return _Unresolved(reference=digest, reason="ENVIRONMENT_NOT_LOCKED", message=message)


def _keys(project: str, wanted: Iterable[str], pattern: str, not_found: str, answer: Any) -> dict[str, tuple[str, ...]]:
    """The ids below the project, by name, of those that are well-formed and in the project; the rest are problems."""
    keys: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(wanted):
        try:
            if names.project_of(name) != f"projects/{project}":
                _problem(answer, name, "REFERENCE_OUTSIDE_PROJECT", f"is not in projects/{project}")
                continue
            keys[name] = ids(pattern, name)[1:]
        except InvalidName as error:
            _problem(answer, name, not_found, error.message)
    return keys


def _problem(answer: Any, reference: str, reason: str, message: str) -> None:
    answer.unresolved.append(_Unresolved(reference=reference, reason=reason, message=message))
