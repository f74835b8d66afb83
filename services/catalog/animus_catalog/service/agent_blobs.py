"""AgentBlobService: bytes for agents, within what a grant says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus.catalog.v1 import agent_blob_pb2_grpc
from animus_catalog.blobs.contents import ContentReader
from animus_catalog.blobs.grants import Grants
from animus_catalog.blobs.receive import Receiver, Threads, require_digests, require_small
from animus_catalog.blobs.revocations import Revocations
from animus_catalog.blobs.storage import StorageLimits
from animus_catalog.blobs.store import BlobStore
from animus_catalog.domain.blobs import Usage, may_read_from, require_room, scope_of
from animus_catalog.domain.contents import Entry
from animus_catalog.domain.errors import (
    GrantExpired,
    ManifestInvalid,
    OffsetBeyondEnd,
    OutsideGrant,
    UploadHeaderInvalid,
)
from animus_catalog.store import blobs as store
from animus_catalog.store import containers, projects
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.documents import manifest
from animus_kit.documents.contract import Grant
from animus_kit.server.context import current
from animus_kit.tls import Peer

CHUNK = 512 * 1024
SMALL_BYTES = 1 << 20
"""Of all blobs of one WriteSmallBlobs, and of a manifest that it seals."""


class AgentBlobService(agent_blob_pb2_grpc.AgentBlobServiceServicer):
    def __init__(
        self,
        engine: sa.Engine,
        clock: Clock,
        blobs: BlobStore,
        contents: ContentReader,
        receiver: Receiver,
        threads: Threads,
        grants: Grants,
        revocations: Revocations,
        limits: StorageLimits,
    ):
        self._engine = engine
        self._clock = clock
        self._blobs = blobs
        self._contents = contents
        self._receiver = receiver
        self._threads = threads
        self._grants = grants
        self._revocations = revocations
        self._limits = limits
        # What attempts are writing right now: digest → the bytes of each call. Only the event loop touches it; a
        # replica counts its own.
        self._writing: dict[str, dict[str, list[int]]] = {}

    async def ReadBlob(self, request: pb.ReadBlobRequest, context: Any) -> AsyncIterator[pb.ReadBlobResponse]:
        peer = current().peer
        await self._let_in(peer)
        size = await self._threads.run(self._readable, request, peer.name)
        offset = request.offset_bytes
        if offset > size:
            raise OffsetBeyondEnd(offset, size)
        while True:
            await self._let_in(peer)
            piece = await self._threads.run(self._blobs.read_range, request.digest, offset, min(CHUNK, size - offset))
            yield pb.ReadBlobResponse(data=piece)
            offset += len(piece)
            if offset >= size:
                return

    async def WriteBlob(self, requests: AsyncIterator[pb.WriteBlobRequest], context: Any) -> pb.WriteBlobResponse:
        peer = current().peer
        await self._let_in(peer)
        first = await anext(requests, None)
        header = _header(first)
        grant, there = await self._threads.run(self._open_write, header, peer.name)
        if there is not None:
            return pb.WriteBlobResponse(size_bytes=there)

        def settle(conn: sa.Connection) -> None:
            self._stage(conn, grant, header.digest, header.size_bytes)

        scope, size = scope_of(grant), header.size_bytes
        pieces = self._while_let_in(peer, _pieces(first, requests))
        async with self._limits.room(scope.project, size - header.offset_bytes):
            with self._reserved(grant, header.digest, size):
                await self._receiver.receive(scope, header.digest, size, header.offset_bytes, pieces, settle)
        return pb.WriteBlobResponse(size_bytes=header.size_bytes)

    async def WriteSmallBlobs(self, request: pb.WriteSmallBlobsRequest, context: Any) -> pb.WriteSmallBlobsResponse:
        peer = current().peer
        await self._let_in(peer)
        require_small(request.blobs, SMALL_BYTES)
        grant, missing = await self._threads.run(self._open_small, request, peer.name)
        async with contextlib.AsyncExitStack() as reserved:
            if missing:
                room = self._limits.room(scope_of(grant).project, sum(map(len, missing.values())))
                await reserved.enter_async_context(room)
            for digest, data in missing.items():
                reserved.enter_context(self._reserved(grant, digest, len(data)))
            await asyncio.shield(self._threads.run(self._take_small, grant, missing, list(request.manifest_digests)))
        return pb.WriteSmallBlobsResponse()

    async def StatBlob(self, request: pb.StatBlobRequest, context: Any) -> pb.StatBlobResponse:
        peer = current().peer
        await self._let_in(peer)
        return await self._threads.run(self._stat, request, peer.name)

    async def SealManifest(self, request: pb.SealManifestRequest, context: Any) -> pb.SealManifestResponse:
        peer = current().peer
        await self._let_in(peer)
        return await self._threads.run(self._seal, request, peer.name)

    async def _let_in(self, peer: Peer) -> None:
        """Raises AgentRevoked, CertificateSuperseded; also in the middle of a stream, which may last for hours."""
        if self._revocations.fresh:
            self._revocations.check(peer)
        else:
            await self._threads.run(self._revocations.check, peer)

    async def _while_let_in(self, peer: Peer, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            await self._let_in(peer)
            yield piece

    def _readable(self, request: pb.ReadBlobRequest, agent: str) -> int:
        """Bytes of the blob. Raises GrantInvalid, GrantExpired, OutsideGrant."""
        grant = self._grants.open(request.grant, agent)
        # One answer for what the grant does not name, what is not there, and what is another project's.
        refusal = OutsideGrant("the grant does not cover that content")
        if not may_read_from(grant, request.container_digest):
            raise refusal
        project = scope_of(grant).project
        with transaction(self._engine) as conn:
            if store.has_ended(conn, grant.attempt):
                raise GrantExpired("the attempt has ended")
            if store.size_readable(conn, project, request.container_digest) is None:
                raise refusal
            if request.digest != request.container_digest and not containers.names(
                conn, project, request.container_digest, request.digest
            ):
                raise refusal
            size = store.size_readable(conn, project, request.digest)
        if size is None:
            raise refusal
        return size

    def _open_write(self, header: pb.WriteBlobRequest, agent: str) -> tuple[Grant, int | None]:
        """The grant, and the blob's bytes when the attempt needs not send them. Raises what a write may be refused for."""
        grant = self._grants.open(header.grant, agent)
        with transaction(self._engine) as conn:
            self._require_open(conn, grant)
            there = self._at_hand(conn, grant, [header.digest]).get(header.digest)
            if there is None:
                require_room(grant, store.usage(conn, scope_of(grant), header.digest), header.size_bytes)
        return grant, there

    def _open_small(self, request: pb.WriteSmallBlobsRequest, agent: str) -> tuple[Grant, dict[str, bytes]]:
        """The grant, and those of the blobs that the attempt has not yet. Raises what a write may be refused for."""
        grant = self._grants.open(request.grant, agent)
        require_digests(request.blobs)
        told = {one.digest: one.data for one in request.blobs}
        with transaction(self._engine) as conn:
            self._require_open(conn, grant)
            known = self._at_hand(conn, grant, told)
            missing = {digest: data for digest, data in told.items() if digest not in known}
            used = store.usage(conn, scope_of(grant), "")
        for data in missing.values():
            require_room(grant, used, len(data))
            used = Usage(used.blobs + 1, used.bytes + len(data))
        return grant, missing

    def _take_small(self, grant: Grant, blobs: dict[str, bytes], manifests: list[str]) -> None:
        def settle(conn: sa.Connection) -> None:
            scope, now = scope_of(grant), self._clock.now()
            store.lock_attempt(conn, scope.attempt)
            self._require_open(conn, grant)
            known = store.sizes_staged(conn, scope, blobs)
            used = store.usage(conn, scope, "")
            for digest, data in blobs.items():
                if digest not in known:
                    require_room(grant, used, len(data))
                    used = Usage(used.blobs + 1, used.bytes + len(data))
                    store.stage(conn, scope, digest, len(data), now)
            # In the order that containers are locked in.
            for digest in sorted(manifests):
                self._seal_within(conn, grant, digest)

        self._receiver.take(scope_of(grant), blobs, settle)

    def _seal_within(self, conn: sa.Connection, grant: Grant, digest: str) -> None:
        """Seals a manifest that is small enough to be read within a transaction. The attempt is locked and open."""
        size = self._at_hand(conn, grant, [digest]).get(digest)
        if size is None:
            raise ManifestInvalid(digest, "it was not written under this grant", "manifest_digests")
        if size > SMALL_BYTES:
            raise ManifestInvalid(digest, "is too large for this call", "manifest_digests")
        contents = self._contents.checked(
            digest, size, manifest.ARTIFACT, lambda digests: self._at_hand(conn, grant, digests), _missing_in(digest)
        )
        containers.add(conn, scope_of(grant).project, contents)

    def _stage(self, conn: sa.Connection, grant: Grant, digest: str, size: int) -> None:
        scope = scope_of(grant)
        store.lock_attempt(conn, scope.attempt)
        self._require_open(conn, grant)
        if store.size_staged(conn, scope, digest) is None:
            # Counted again under the lock: writes that ran side by side passed the first look together.
            require_room(grant, store.usage(conn, scope, digest), size)
            store.stage(conn, scope, digest, size, self._clock.now())

    def _require_open(self, conn: sa.Connection, grant: Grant) -> None:
        projects.writable(conn, scope_of(grant).project)
        if store.has_ended(conn, grant.attempt):
            raise GrantExpired("the attempt has ended")

    def _at_hand(self, conn: sa.Connection, grant: Grant, digests: Collection[str]) -> Mapping[str, int]:
        """Bytes of those of the digests that the attempt has written or may read.

        Not what else the project owns: who knows a digest must not come by its content.
        """
        scope = scope_of(grant)
        known = dict(store.sizes_staged(conn, scope, digests))
        known |= containers.readable_in(conn, scope.project, grant.readable_manifests, digests)
        return known

    def _stat(self, request: pb.StatBlobRequest, agent: str) -> pb.StatBlobResponse:
        grant = self._grants.open(request.grant, agent)
        with transaction(self._engine) as conn:
            size = self._at_hand(conn, grant, [request.digest]).get(request.digest)
            if size is not None:
                return pb.StatBlobResponse(complete=True, offset_bytes=size)
            kept = store.kept_upload(conn, scope_of(grant), request.digest)
        return pb.StatBlobResponse(offset_bytes=kept.offset if kept else 0)

    def _seal(self, request: pb.SealManifestRequest, agent: str) -> pb.SealManifestResponse:
        grant = self._grants.open(request.grant, agent)

        def sizes(digests: Collection[str]) -> Mapping[str, int]:
            with transaction(self._engine) as conn:
                return self._at_hand(conn, grant, digests)

        size = sizes([request.digest]).get(request.digest)
        if size is None:
            raise ManifestInvalid(request.digest, "it was not written under this grant", "digest")
        contents = self._contents.checked(request.digest, size, manifest.ARTIFACT, sizes, _missing_in(request.digest))
        with transaction(self._engine) as conn:
            store.lock_attempt(conn, grant.attempt)
            self._require_open(conn, grant)
            containers.add(conn, scope_of(grant).project, contents)
        return pb.SealManifestResponse(file_count=contents.file_count, size_bytes=contents.size)

    @contextlib.contextmanager
    def _reserved(self, grant: Grant, digest: str, size: int) -> Iterator[None]:
        """Counts a write while it lasts, so that unfinished ones cannot fill the disk beyond the quota.

        Of several calls for one digest the smallest is free: an agent whose connection broke writes again before this
        side has noticed.
        """
        writing = self._writing.setdefault(grant.attempt, {})
        calls = writing.setdefault(digest, [])
        calls.append(size)
        try:
            used = [sum(sizes) - min(sizes) if len(sizes) > 1 else sizes[0] for sizes in writing.values()]
            blobs = sum(max(1, len(sizes) - 1) for sizes in writing.values())
            require_room(grant, Usage(blobs - 1, sum(used) - size), size)
            yield
        finally:
            calls.remove(size)
            if not calls:
                del writing[digest]
            if not writing:
                del self._writing[grant.attempt]


def _missing_in(digest: str) -> Callable[[Entry], ManifestInvalid]:
    return lambda entry: ManifestInvalid(digest, f"{entry.path} was not written under this grant", "digest")


def _header(first: pb.WriteBlobRequest | None) -> pb.WriteBlobRequest:
    if first is None:
        raise UploadHeaderInvalid("grant", "the stream ended without a message")
    for field in ("grant", "digest"):
        if not getattr(first, field):
            raise UploadHeaderInvalid(field, "must be set in the first message")
    if first.offset_bytes > first.size_bytes:
        raise UploadHeaderInvalid("offset_bytes", "is beyond size_bytes")
    return first


async def _pieces(first: pb.WriteBlobRequest, requests: AsyncIterator[pb.WriteBlobRequest]) -> AsyncIterator[bytes]:
    yield first.data
    async for message in requests:
        if message.digest not in ("", first.digest) or message.grant not in (b"", first.grant):
            raise UploadHeaderInvalid("digest", "is another one than in the first message")
        yield message.data
