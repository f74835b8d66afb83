"""Dataset versions out of folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus.catalog.v1 import dataset_pb2
from animus_client.blobs import Progress, Source, Uploaded
from animus_client.errors import AlreadyExists, ClientError
from animus_kit.documents import folder, manifest
from animus_kit.documents.errors import DocumentError
from animus_kit.names import id_of, project_of


@dataclass(frozen=True)
class Pushed:
    version: Any
    upload: Uploaded


class Datasets:
    def __init__(self, client: Any):
        self._client = client

    def push(
        self,
        dataset: str,
        path: str | Path,
        *,
        description: str = "",
        source: str = "",
        parents: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Pushed:
        """A folder as the next version of projects/{p}/datasets/{d}, which is made if it does not exist. The same
        content again answers the version it already is. Raises ApiError, ClientError."""
        root = Path(path)
        if not root.is_dir():
            raise ClientError("NOT_A_FOLDER", f"{root} is not a folder")
        try:
            entries = folder.build(root, manifest.DATASET)
            document = manifest.dumps(entries, manifest.DATASET)
        except DocumentError as error:
            raise ClientError(error.reason, f"{root}: {error}") from error
        project = project_of(dataset)
        sources = [Source.of_file(root / entry.path, entry.digest, entry.size) for entry in entries]
        whole = Source.of_bytes(document)
        self._ensure(dataset)
        upload = self._client.blobs.upload(project, [*sources, whole], progress)
        version = dataset_pb2.DatasetVersion(
            manifest_digest=whole.digest, description=description, source=source, parents=parents, labels=labels or {}
        )
        request = dataset_pb2.CreateDatasetVersionRequest(parent=dataset, dataset_version=version)
        return Pushed(self._client.call(self._client.datasets_api.CreateDatasetVersion, request), upload)

    def _ensure(self, dataset: str) -> None:
        request = dataset_pb2.CreateDatasetRequest(parent=project_of(dataset), dataset_id=id_of(dataset))
        try:
            self._client.call(self._client.datasets_api.CreateDataset, request)
        except AlreadyExists:
            pass
