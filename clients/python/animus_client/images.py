"""Environment locks out of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus.catalog.v1 import environment_pb2
from animus_client import image_sources, oci
from animus_client.blobs import Progress, Source, Uploaded
from animus_client.errors import AlreadyExists
from animus_kit.names import id_of, project_of


@dataclass(frozen=True)
class Imported:
    lock: Any
    image: oci.Image
    upload: Uploaded


class Images:
    def __init__(self, client: Any):
        self._client = client

    def import_image(
        self,
        environment: str,
        source: str | Path,
        platform: str | None = None,
        progress: Progress | None = None,
        registries: Path | None = None,
        temporary: Path | None = None,
    ) -> Imported:
        """As import_layout, from whatever `image_sources.layout_of` knows: a layout, an archive of one, a registry."""
        with image_sources.layout_of(source, platform, registries, temporary) as layout:
            return self.import_layout(environment, layout, platform, progress)

    def import_layout(
        self, environment: str, layout: str | Path, platform: str | None = None, progress: Progress | None = None
    ) -> Imported:
        """An image as a lock of projects/{p}/environments/{e}, which is made if it does not exist.
        Raises ApiError, ClientError."""
        image = oci.read(layout, platform)
        project = project_of(environment)
        request = environment_pb2.CreateEnvironmentRequest(parent=project, environment_id=id_of(environment))
        try:
            self._client.call(self._client.environments_api.CreateEnvironment, request)
        except AlreadyExists:
            pass
        sources = [Source.of_file(blob.path, blob.digest, blob.size) for blob in image.blobs]
        upload = self._client.blobs.upload(project, sources, progress)
        packages = [
            environment_pb2.Package(kind=p.kind, name=p.name, version=p.version, digest=p.digest)
            for p in image.packages
        ]
        create = environment_pb2.CreateEnvironmentLockRequest(
            parent=environment, image_digest=image.digest, packages=packages
        )
        lock = self._client.call(self._client.environments_api.CreateEnvironmentLock, create, timeout=120)
        return Imported(lock, image, upload)
