"""Taking one blob in from a stream, so that what came survives a lost connection or a killed server."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa

from animus_catalog.blobs.staging import StagedFile, Staging
from animus_catalog.blobs.store import BlobStore
from animus_catalog.domain.blobs import Scope
from animus_catalog.domain.errors import (
    DigestMismatch,
    UploadHeaderInvalid,
    UploadIncomplete,
    UploadNotFound,
    UploadOffsetMismatch,
)
from animus_catalog.store import blobs as store
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.digest import sha256
from animus_kit.log import get_logger

CHECKPOINT_BYTES = 64 << 20
"""What a killed server may lose of an upload."""
KEEP_FROM_BYTES = 1 << 20
"""Less than this is sooner sent again than remembered."""
_BATCH_BYTES = 1 << 20

log = get_logger(__name__)
T = TypeVar("T")


def require_small(blobs: Iterable[Any], limit: int) -> None:
    """Raises UploadHeaderInvalid when the blobs (with `data`) of one message are more than `limit` bytes together."""
    if sum(len(one.data) for one in blobs) > limit:
        raise UploadHeaderInvalid("blobs", f"are more than {limit} bytes together")


def require_digests(blobs: Iterable[Any]) -> None:
    """Raises DigestMismatch when any of the blobs (with `digest` and `data`) has another digest than it says: before one of
    them is stored, since what is stored and nobody's is nobody's to remove."""
    for one in blobs:
        if (computed := sha256(one.data)) != one.digest:
            raise DigestMismatch(one.digest, computed)


class Threads:
    """The threads in which the blob listeners hash, write and ask the database; the event loop does none of these."""

    def __init__(self, workers: int):
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="blobs")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._executor, context.run, function, *args)


class Receiver:
    """Uploads of people and agents alike; they differ in what makes a received blob theirs."""

    def __init__(self, engine: sa.Engine, blobs: BlobStore, staging: Staging, threads: Threads, clock: Clock):
        self._engine = engine
        self._blobs = blobs
        self._staging = staging
        self._threads = threads
        self._clock = clock

    async def receive(
        self,
        scope: Scope,
        digest: str,
        size: int,
        offset: int,
        pieces: AsyncIterator[bytes],
        settle: Callable[[sa.Connection], None],
    ) -> None:
        """Reads the rest of a blob from `pieces`, stores it, and runs `settle` in the transaction that makes it owned.

        Every announced byte is read, whether or not the store has the blob already. Raises UploadOffsetMismatch,
        UploadNotFound, UploadIncomplete (what came is kept), SizeMismatch, DigestMismatch.
        """
        file = await self._threads.run(self._begin, scope, digest, size, offset)
        try:
            await self._fill(scope, file, pieces)
        except (asyncio.CancelledError, UploadIncomplete, ConnectionError):
            # The sender is gone; it may come back. Shielded: the cancelled call must not cancel this as well.
            await asyncio.shield(self._threads.run(self._keep_or_discard, scope, file))
            raise
        except BaseException:
            await asyncio.shield(self._threads.run(file.discard))
            raise
        await asyncio.shield(self._threads.run(self._store, scope, file, settle))

    def take(self, scope: Scope, blobs: Mapping[str, bytes], settle: Callable[[sa.Connection], None]) -> None:
        """As `receive`, for small blobs that are whole in memory, and whose digests were checked: all of them, with one
        transaction. Blocks."""
        for digest, data in blobs.items():
            file = self._staging.new(digest, len(data))
            try:
                file.write(data)
                self._blobs.adopt(file.finish(), digest)
            except BaseException:
                file.discard()
                raise
        with transaction(self._engine) as conn:
            settle(conn)
            obsolete = [store.drop_upload(conn, scope, digest) for digest in blobs]
        for name in filter(None, obsolete):
            self._staging.remove(name)

    def _begin(self, scope: Scope, digest: str, size: int, offset: int) -> StagedFile:
        if offset == 0:
            return self._staging.new(digest, size)
        with transaction(self._engine) as conn:
            kept = store.kept_upload(conn, scope, digest)
        if kept is None:
            raise UploadNotFound(digest)
        if (kept.offset, kept.size) != (offset, size):
            raise UploadOffsetMismatch(offset, kept.offset if kept.size == size else 0)
        return self._staging.resume(kept)

    async def _fill(self, scope: Scope, file: StagedFile, pieces: AsyncIterator[bytes]) -> None:
        checkpoint = file.offset + CHECKPOINT_BYTES
        # Over HTTP pieces are of 16 KiB: gathered, since a hop to a thread costs more than hashing one of them.
        batch: list[bytes] = []
        waiting = 0
        async for piece in pieces:
            batch.append(piece)
            waiting += len(piece)
            if waiting >= _BATCH_BYTES:
                await self._write(file, batch)
                batch, waiting = [], 0
                if file.offset >= checkpoint:
                    await self._threads.run(self._checkpoint, scope, file)
                    checkpoint = file.offset + CHECKPOINT_BYTES
        await self._write(file, batch)
        if file.offset < file.size:
            raise UploadIncomplete(file.size, file.offset)

    async def _write(self, file: StagedFile, batch: list[bytes]) -> None:
        if not batch:
            return
        data = b"".join(batch) if len(batch) > 1 else batch[0]
        writing = asyncio.ensure_future(self._threads.run(file.write, data))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The thread goes on: what follows would sync, keep and close the file beside its write.
            await asyncio.wait([writing])
            raise

    def _store(self, scope: Scope, file: StagedFile, settle: Callable[[sa.Connection], None]) -> None:
        try:
            self._blobs.adopt(file.finish(), file.digest)
        except BaseException as error:
            file.discard()
            if isinstance(error, DigestMismatch):
                self._forget(scope, file.digest)
            raise
        with transaction(self._engine) as conn:
            settle(conn)
            obsolete = store.drop_upload(conn, scope, file.digest)
        if obsolete is not None:
            self._staging.remove(obsolete)

    def _forget(self, scope: Scope, digest: str) -> None:
        """What is kept may be what was wrong, and going on with it would fail for ever."""
        with transaction(self._engine) as conn:
            obsolete = store.drop_upload(conn, scope, digest)
        if obsolete is not None:
            self._staging.remove(obsolete)

    def _keep_or_discard(self, scope: Scope, file: StagedFile) -> None:
        try:
            if file.offset >= KEEP_FROM_BYTES:
                obsolete = self._keep(scope, file)
                file.close()
                if obsolete is not None:
                    self._staging.remove(obsolete)
            else:
                file.discard()
        except Exception:
            # The sender starts again; the janitor removes the file.
            log.exception("an interrupted upload could not be kept", digest=file.digest)
            file.close()

    def _checkpoint(self, scope: Scope, file: StagedFile) -> None:
        obsolete = self._keep(scope, file)
        # This very file when another upload of the blob got further; it is being written all the same.
        if obsolete is not None and obsolete != file.path.name:
            self._staging.remove(obsolete)

    def _keep(self, scope: Scope, file: StagedFile) -> str | None:
        """Returns the name of the staging file that is not needed for going on any more."""
        kept = file.sync()
        with transaction(self._engine) as conn:
            return store.keep_upload(conn, scope, kept, self._clock.now())
