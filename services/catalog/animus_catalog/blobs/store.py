"""The store of blobs: content by SHA-256, in a folder or an S3-compatible bucket, by way of obstore.

A key is written once and never again. Who may read what is not decided here: the store knows no projects.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore, S3Store

from animus_catalog.domain.errors import BlobLost
from animus_kit import digest as digests

READ_CHUNK = 1 << 20


class BlobStore:
    """Blobs under `sha256/<2 hex>/<64 hex>` of an object store.

    A new blob first lies complete under a key of its own and is then moved, create-only, to its digest's: no reader
    ever sees a part, and no writer changes what is there.
    """

    def __init__(self, store: ObjectStore, folder: Path | None = None):
        self._store = store
        self._folder = folder

    @classmethod
    def open(cls, url: str) -> BlobStore:
        """`/folder` or `file:///folder`; or `s3://bucket/prefix` (credentials and endpoint from AWS_* variables).

        Raises ValueError for anything else.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file") and not parts.netloc and parts.path.startswith("/"):
            folder = Path(unquote(parts.path))
            # All of them now, so that a new blob changes one folder only, which `adopt` then syncs.
            for number in range(256):
                (folder / "sha256" / f"{number:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(folder / "sha256")
            return cls(LocalStore(folder), folder)
        if parts.scheme == "s3" and parts.netloc:
            # Without a condition on the copy, a bucket would overwrite: "multipart" is the one S3 and its kin share.
            return cls(S3Store.from_url(url, config={"copy_if_not_exists": "multipart"}))
        raise ValueError("must be /folder, file:///folder or s3://bucket/prefix")

    @property
    def staging_folder(self) -> Path | None:
        """A folder on the store's own file system, from where a file enters by being moved; None for a bucket."""
        return self._folder / "staging" if self._folder else None

    def adopt(self, file: Path, digest: str) -> None:
        """Makes a complete, verified, synced file the blob `digest`, durably. The file is gone afterwards.

        As much work when the store has the blob as when it has not, so that time tells nothing of other projects.
        """
        key = _key(digest)
        if self._folder is not None:
            incoming = str(file.relative_to(self._folder))
        else:
            incoming = f"incoming/{uuid.uuid4()}"
            obstore.put(self._store, incoming, file)
        try:
            obstore.copy(self._store, incoming, key, overwrite=False)
        except AlreadyExistsError:
            pass  # under one digest there is one content
        finally:
            if self._folder is None:
                obstore.delete(self._store, incoming)
        if self._folder is not None:
            # Also when it was there: whoever put it may not have come so far. Ownership, written next, is durable.
            _sync_folder((self._folder / key).parent)
        file.unlink(missing_ok=True)

    def exists(self, digest: str) -> bool:
        try:
            obstore.head(self._store, _key(digest))
        except FileNotFoundError:
            return False
        return True

    def read_range(self, digest: str, start: int, length: int) -> bytes:
        """Raises BlobLost."""
        if length == 0:
            return b""
        try:
            # Ranges rather than obstore's streams: those read a folder in pieces of 8 KiB, a sixth of the speed.
            return bytes(obstore.get_range(self._store, _key(digest), start=start, length=length))
        except FileNotFoundError:
            raise BlobLost(digest) from None

    def read(self, digest: str, size: int) -> Iterator[bytes]:
        """A blob of `size` bytes in pieces of at most 1 MiB. Raises BlobLost."""
        for start in range(0, size, READ_CHUNK):
            yield self.read_range(digest, start, min(READ_CHUNK, size - start))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _key(digest: str) -> str:
    hex = digests.hex_of(digest)
    return f"sha256/{hex[:2]}/{hex}"
