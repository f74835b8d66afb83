"""Code snapshots out of Git repositories."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus.catalog.v1 import code_pb2
from animus_client.blobs import Progress, Source, Uploaded
from animus_client.errors import ClientError
from animus_client.git import Repository
from animus_kit.documents import manifest
from animus_kit.documents.errors import DocumentError


@dataclass(frozen=True)
class PushedCode:
    snapshot: Any
    upload: Uploaded


class Code:
    def __init__(self, client: Any):
        self._client = client

    def push(
        self,
        project: str,
        repository: str | Path,
        revision: str = "HEAD",
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> PushedCode:
        """The tree of one commit. Raises ApiError, ClientError."""
        with Repository(repository) as git, tempfile.TemporaryDirectory(prefix="animus-code-") as scratch:
            found = git.snapshot(revision)
            try:
                document = manifest.dumps(found.entries, manifest.CODE)
            except DocumentError as error:
                raise ClientError(error.reason, f"{repository}: {error}") from error
            sizes = {entry.sha256: entry.size for entry in found.entries if entry.sha256}
            whole = Source.of_bytes(document)
            digests = {f"sha256:{sha256}" for sha256 in sizes}
            # Git's reader is one stream and uploads are parallel, so what is missing is laid out first.
            sources = []
            for digest in sorted(self._client.blobs.missing(project, digests)):
                sha256 = digest.removeprefix("sha256:")
                path = Path(scratch) / sha256
                path.write_bytes(git.read(found.contents[sha256]))
                sources.append(Source.of_file(path, digest, sizes[sha256]))
            upload = self._client.blobs.upload(project, [*sources, whole], progress)
        formats = {
            "sha1": code_pb2.CodeSnapshot.OBJECT_FORMAT_SHA1,
            "sha256": code_pb2.CodeSnapshot.OBJECT_FORMAT_SHA256,
        }
        snapshot = code_pb2.CodeSnapshot(
            object_format=formats[found.object_format],
            commit_id=found.commit_id,
            manifest_digest=whole.digest,
            repository_url=found.url,
            description=description,
            labels=labels or {},
        )
        request = code_pb2.CreateCodeSnapshotRequest(
            parent=project, code_snapshot=snapshot, commit_object=found.commit_object
        )
        made = self._client.call(self._client.code_api.CreateCodeSnapshot, request, timeout=120)
        skipped = len(digests) + 1 - upload.sent
        return PushedCode(made, Uploaded(upload.sent, skipped, upload.sent_bytes))
