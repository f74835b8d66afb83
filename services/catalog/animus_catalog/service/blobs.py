"""BlobService: bytes for people and tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody

from animus.catalog.v1 import blob_pb2 as pb
from animus.catalog.v1 import blob_pb2_grpc
from animus_catalog.blobs.receive import Receiver, Threads, require_digests, require_small
from animus_catalog.blobs.storage import StorageLimits
from animus_catalog.blobs.store import READ_CHUNK, BlobStore
from animus_catalog.domain.blobs import Scope
from animus_catalog.domain.contents import Entry
from animus_catalog.domain.errors import (
    BlobNotFound,
    OffsetBeyondEnd,
    PathNotFound,
    PathRequired,
    UploadHeaderInvalid,
    UploadNotFound,
)
from animus_catalog.service.convert import ARTIFACT, DATASET_VERSION, PROJECT, ids
from animus_catalog.store import artifacts, containers, datasets, projects
from animus_catalog.store import blobs as store
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction

CHUNK = 64 * 1024
"""Envoy fails on larger HttpBody messages with its default stream window."""
SMALL_BYTES = 512 << 10
"""Of all blobs of one call: in JSON too it passes the gateway's limit on bodies."""
_OCTETS = "application/octet-stream"


class BlobService(blob_pb2_grpc.BlobServiceServicer):
    def __init__(
        self,
        engine: sa.Engine,
        clock: Clock,
        blobs: BlobStore,
        receiver: Receiver,
        threads: Threads,
        limits: StorageLimits,
    ):
        self._engine = engine
        self._clock = clock
        self._blobs = blobs
        self._receiver = receiver
        self._threads = threads
        self._limits = limits

    async def UploadBlob(self, requests: AsyncIterator[pb.UploadBlobRequest], context: Any) -> pb.Blob:
        first = await anext(requests, None)
        header = _header(first)
        (project,) = ids(PROJECT, header.parent)
        owned = await self._threads.run(self._size_in_writable, project, header.digest)
        if owned is not None:
            return pb.Blob(digest=header.digest, size_bytes=owned)

        def settle(conn: sa.Connection) -> None:
            projects.writable(conn, project)
            store.own(conn, project, header.digest, header.size_bytes, self._clock.now())

        async with self._limits.room(project, header.size_bytes - header.offset_bytes):
            await self._receiver.receive(
                Scope(project), header.digest, header.size_bytes, header.offset_bytes, _pieces(first, requests), settle
            )
        return pb.Blob(digest=header.digest, size_bytes=header.size_bytes)

    async def UploadSmallBlobs(self, request: pb.UploadSmallBlobsRequest, context: Any) -> pb.UploadSmallBlobsResponse:
        (project,) = ids(PROJECT, request.parent)
        require_small(request.blobs, SMALL_BYTES)
        told = {one.digest: one.data for one in request.blobs}

        def find() -> dict[str, bytes]:
            require_digests(request.blobs)
            with transaction(self._engine) as conn:
                projects.writable(conn, project)
                owned = store.sizes_owned(conn, project, told)
            return {digest: data for digest, data in told.items() if digest not in owned}

        def settle(conn: sa.Connection) -> None:
            projects.writable(conn, project)
            store.own_all(conn, project, {digest: len(data) for digest, data in missing.items()}, self._clock.now())

        missing = await self._threads.run(find)
        if missing:
            async with self._limits.room(project, sum(map(len, missing.values()))):
                await asyncio.shield(self._threads.run(self._receiver.take, Scope(project), missing, settle))
        return pb.UploadSmallBlobsResponse()

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.Upload:
        (project,) = ids(PROJECT, request.parent)

        def find() -> pb.Upload:
            with transaction(self._engine) as conn:
                kept = store.kept_upload(conn, Scope(project), request.digest)
            if kept is None:
                raise UploadNotFound(request.digest)
            return pb.Upload(digest=kept.digest, size_bytes=kept.size, offset_bytes=kept.offset)

        return await self._threads.run(find)

    async def ListMissingBlobs(self, request: pb.ListMissingBlobsRequest, context: Any) -> pb.ListMissingBlobsResponse:
        (project,) = ids(PROJECT, request.parent)

        def find() -> list[str]:
            with transaction(self._engine) as conn:
                owned = store.sizes_owned(conn, project, set(request.digests))
            return [digest for digest in dict.fromkeys(request.digests) if digest not in owned]

        return pb.ListMissingBlobsResponse(missing_digests=await self._threads.run(find))

    async def DownloadBlob(self, request: pb.DownloadBlobRequest, context: Any) -> AsyncIterator[HttpBody]:
        (project,) = ids(PROJECT, request.parent)
        size = await self._threads.run(self._size, project, request.digest)
        if request.offset_bytes > size:
            raise OffsetBeyondEnd(request.offset_bytes, size)
        async for body in self._stream(context, request.digest, size, request.offset_bytes, ""):
            yield body

    async def DownloadArtifact(self, request: pb.DownloadArtifactRequest, context: Any) -> AsyncIterator[HttpBody]:
        def find() -> Entry:
            with transaction(self._engine) as conn:
                artifact = artifacts.get(conn, *ids(ARTIFACT, request.name))
                return _file(conn, artifact.project, artifact.manifest_digest, request)

        entry = await self._threads.run(find)
        async for body in self._stream(context, entry.digest, entry.size, 0, entry.path):
            yield body

    async def DownloadDatasetVersion(
        self, request: pb.DownloadDatasetVersionRequest, context: Any
    ) -> AsyncIterator[HttpBody]:
        def find() -> Entry:
            with transaction(self._engine) as conn:
                version = datasets.get(conn, *ids(DATASET_VERSION, request.name))
                return _file(conn, version.project, version.manifest_digest, request)

        entry = await self._threads.run(find)
        async for body in self._stream(context, entry.digest, entry.size, 0, entry.path):
            yield body

    async def _stream(self, context: Any, digest: str, size: int, offset: int, path: str) -> AsyncIterator[HttpBody]:
        # The first piece is read before any header is sent: a lost blob must be an error, not an empty success.
        piece = await self._read(digest, offset, size)
        headers = [("animus-digest", digest), ("animus-size", str(size))]
        if path:
            headers.append(("content-disposition", _disposition(path)))
        await context.send_initial_metadata(headers)
        content_type = _OCTETS
        while True:
            for start in range(0, max(len(piece), 1), CHUNK):
                yield HttpBody(content_type=content_type, data=piece[start : start + CHUNK])
                content_type = ""  # said once
            offset += len(piece)
            if offset >= size:
                return
            piece = await self._read(digest, offset, size)

    async def _read(self, digest: str, offset: int, size: int) -> bytes:
        return await self._threads.run(self._blobs.read_range, digest, offset, min(READ_CHUNK, size - offset))

    def _size(self, project: str, digest: str) -> int:
        with transaction(self._engine) as conn:
            size = store.size_owned(conn, project, digest)
        if size is None:
            raise BlobNotFound(f"projects/{project}", digest)
        return size

    def _size_in_writable(self, project: str, digest: str) -> int | None:
        with transaction(self._engine) as conn:
            projects.writable(conn, project)
            return store.size_owned(conn, project, digest)


def _header(first: pb.UploadBlobRequest | None) -> pb.UploadBlobRequest:
    if first is None:
        raise UploadHeaderInvalid("parent", "the stream ended without a message")
    for field in ("parent", "digest"):
        if not getattr(first, field):
            raise UploadHeaderInvalid(field, "must be set in the first message")
    if first.offset_bytes > first.size_bytes:
        raise UploadHeaderInvalid("offset_bytes", "is beyond size_bytes")
    return first


async def _pieces(first: pb.UploadBlobRequest, requests: AsyncIterator[pb.UploadBlobRequest]) -> AsyncIterator[bytes]:
    yield first.body.data
    async for message in requests:
        for field in ("parent", "digest"):
            if getattr(message, field) not in ("", getattr(first, field)):
                raise UploadHeaderInvalid(field, "is another one than in the first message")
        yield message.body.data


def _file(conn: sa.Connection, project: str, manifest_digest: str, request: Any) -> Entry:
    """The file of a manifest that a download asks for. Raises PathRequired, PathNotFound, BlobNotFound."""
    container = containers.get(conn, project, manifest_digest)
    if request.path:
        entry = containers.entry(conn, container.id, request.path)
    elif container.file_count == 1:
        entry = containers.only_entry(conn, container.id)
    else:
        raise PathRequired(request.name, container.file_count)
    if entry is None or not entry.digest:
        raise PathNotFound(request.name, request.path)
    # Not implied by the manifest: an attempt may have sealed one that it did not commit.
    if store.size_owned(conn, project, entry.digest) is None:
        raise BlobNotFound(f"projects/{project}", entry.digest)
    return entry


def _disposition(path: str) -> str:
    """RFC 6266, with the name in the form of RFC 8187, in which nothing needs to be escaped a second time."""
    return "attachment; filename*=UTF-8''" + quote(path.rsplit("/", 1)[-1], safe="")
