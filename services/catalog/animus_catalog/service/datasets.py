"""DatasetService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import dataset_pb2 as pb
from animus.catalog.v1 import dataset_pb2_grpc
from animus.type.v1 import value_pb2
from animus_catalog.blobs.contents import ContentReader
from animus_catalog.domain.contents import Change
from animus_catalog.domain.datasets import Column, DatasetVersion, Scalar, Statistic
from animus_catalog.domain.errors import ParentNotFound, ReferenceOutsideProject
from animus_catalog.service.convert import DATASET, DATASET_VERSION, ids, manifest_entry, timestamp
from animus_catalog.service.entries import Entries
from animus_catalog.store import artifacts, containers, entries, events, projects
from animus_catalog.store import datasets as store
from animus_kit import names
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.documents import manifest
from animus_kit.server.context import current
from animus_kit.server.idempotency import once
from animus_kit.server.paging import Page


class DatasetService(dataset_pb2_grpc.DatasetServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock, contents: ContentReader):
        self._engine = engine
        self._clock = clock
        self._contents = contents
        self._datasets = Entries(engine, clock, "Dataset", pb.Dataset)

    def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.Dataset:
        return self._datasets.get(request.name)

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        found, token = self._datasets.page(request)
        return pb.ListDatasetsResponse(datasets=found, next_page_token=token)

    def CreateDataset(self, request: pb.CreateDatasetRequest, context: Any) -> pb.Dataset:
        return self._datasets.create(request, request.dataset_id, request.dataset)

    def UpdateDataset(self, request: pb.UpdateDatasetRequest, context: Any) -> pb.Dataset:
        return self._datasets.update(request, request.dataset)

    def GetDatasetVersion(self, request: pb.GetDatasetVersionRequest, context: Any) -> pb.DatasetVersion:
        with transaction(self._engine) as conn:
            return _answer(store.get(conn, *ids(DATASET_VERSION, request.name)))

    def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Any
    ) -> pb.ListDatasetVersionsResponse:
        project, dataset = ids(DATASET, request.parent)
        with transaction(self._engine) as conn:
            entries.get(conn, "Dataset", project, dataset)
            found, token = store.page(conn, project, dataset, request)
        return pb.ListDatasetVersionsResponse(dataset_versions=map(_answer, found), next_page_token=token)

    def CreateDatasetVersion(self, request: pb.CreateDatasetVersionRequest, context: Any) -> pb.DatasetVersion:
        ctx = current()
        project, dataset = ids(DATASET, request.parent)
        wanted = request.dataset_version
        with transaction(self._engine) as conn:
            entries.get(conn, "Dataset", project, dataset)
        contents = self._contents.manifest(project, wanted.manifest_digest, manifest.DATASET)

        def act() -> pb.DatasetVersion:
            projects.writable(conn, project)
            entry = entries.get(conn, "Dataset", project, dataset, lock=True)
            parents = _parents(conn, project, wanted.parents)
            version = DatasetVersion(
                project=project,
                dataset=dataset,
                number=entry.latest + 1,
                manifest_digest=contents.digest,
                file_count=contents.file_count,
                size=contents.size,
                schema=[Column(c.name, c.type, c.nullable) for c in wanted.schema],
                statistics=[Statistic(s.name, _scalar(s.value)) for s in wanted.statistics],
                source=wanted.source,
                parents=parents,
                description=wanted.description,
                labels=dict(wanted.labels),
                creator=ctx.subject,
                create_time=self._clock.now(),
            )
            if entry.latest:
                newest = store.get(conn, project, dataset, f"v{entry.latest}")
                if newest.says_the_same_as(version):
                    return _answer(newest)
            containers.add(conn, project, contents)
            store.create(conn, version)
            self._datasets.with_version(conn, entry)
            events.dataset_version_created(conn, ctx, version)
            return _answer(version)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.DatasetVersion, act)

    def ListDatasetVersionEntries(
        self, request: pb.ListDatasetVersionEntriesRequest, context: Any
    ) -> pb.ListDatasetVersionEntriesResponse:
        with transaction(self._engine) as conn:
            version = store.get(conn, *ids(DATASET_VERSION, request.parent))
            container = containers.get(conn, version.project, version.manifest_digest)
            found, token = containers.page(conn, container.id, request)
        return pb.ListDatasetVersionEntriesResponse(entries=map(manifest_entry, found), next_page_token=token)

    def DiffDatasetVersions(
        self, request: pb.DiffDatasetVersionsRequest, context: Any
    ) -> pb.DiffDatasetVersionsResponse:
        project = names.project_of(request.name)
        if names.project_of(request.base) != project:
            raise ReferenceOutsideProject("base", request.base, project)
        page = Page.parse(request)
        after = str(page.after[0]) if page.after else ""
        with transaction(self._engine) as conn:
            newer = store.get(conn, *ids(DATASET_VERSION, request.name))
            older = store.get(conn, *ids(DATASET_VERSION, request.base))
            found = containers.differences(
                conn,
                containers.get(conn, newer.project, newer.manifest_digest).id,
                containers.get(conn, older.project, older.manifest_digest).id,
                after,
                page.size,
            )
        more = len(found) > page.size
        shown = found[: page.size]
        return pb.DiffDatasetVersionsResponse(
            changes=map(_change, shown), next_page_token=page.token(shown[-1].path) if more else ""
        )


def _parents(conn: sa.Connection, project: str, parents: Sequence[str]) -> list[str]:
    """Returns them sorted. Raises ReferenceOutsideProject, ParentNotFound."""
    versions: dict[str, tuple[str, str]] = {}
    outputs: dict[str, str] = {}
    for position, name in enumerate(parents):
        if names.project_of(name) != f"projects/{project}":
            raise ReferenceOutsideProject(f"dataset_version.parents[{position}]", name, f"projects/{project}")
        if "/artifacts/" in name:
            outputs[name] = names.id_of(name)
        else:
            _, dataset, version = ids(DATASET_VERSION, name)
            versions[name] = (dataset, version)
    known = set(store.among(conn, project, versions.values()))
    made = artifacts.existing(conn, project, outputs.values())
    known |= {name for name, id in outputs.items() if id in made}
    for name in parents:
        if name not in known:
            raise ParentNotFound(name)
    return sorted(parents)


def _scalar(value: value_pb2.Value) -> Scalar:
    return getattr(value, value.WhichOneof("kind"))


def _value(value: Scalar) -> value_pb2.Value:
    field = {str: "string_value", int: "int_value", float: "double_value", bool: "bool_value"}[type(value)]
    return value_pb2.Value(**{field: value})


def _answer(version: DatasetVersion) -> pb.DatasetVersion:
    return pb.DatasetVersion(
        name=version.name,
        manifest_digest=version.manifest_digest,
        file_count=version.file_count,
        size_bytes=version.size,
        schema=[pb.Column(name=c.name, type=c.type, nullable=c.nullable) for c in version.schema],
        statistics=[pb.Statistic(name=s.name, value=_value(s.value)) for s in version.statistics],
        source=version.source,
        parents=version.parents,
        description=version.description,
        labels=version.labels,
        creator=version.creator,
        create_time=timestamp(version.create_time),
    )


def _change(change: Change) -> pb.DiffDatasetVersionsResponse.Change:
    kinds = pb.DiffDatasetVersionsResponse.Change
    kind = kinds.KIND_ADDED if not change.before else kinds.KIND_CHANGED if change.after else kinds.KIND_REMOVED
    return kinds(
        kind=kind,
        path=change.path,
        before=manifest_entry(change.before) if change.before else None,
        after=manifest_entry(change.after) if change.after else None,
    )
