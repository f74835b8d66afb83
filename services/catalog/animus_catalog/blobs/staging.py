"""Files of blobs that are coming in.

Each has one writer for its whole life. Going on with an interrupted upload copies what is kept into a file of its own
while hashing it: with two writers on one file, one could change what the other has hashed, and a wrong content would
get under a digest.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from animus_catalog.domain.blobs import KeptUpload
from animus_catalog.domain.errors import DigestMismatch, SizeMismatch, UploadNotFound
from animus_kit.digest import Sha256Stream

_COPY = 1 << 20


class Staging:
    """A folder of staging files, named by random ids."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new(self, digest: str, size: int) -> StagedFile:
        return StagedFile(self.path(str(uuid.uuid4())), digest, size)

    def resume(self, kept: KeptUpload) -> StagedFile:
        """A new file that begins with what is kept. Raises UploadNotFound when the kept file is not on this machine."""
        file = self.new(kept.digest, kept.size)
        try:
            with open(self.path(kept.staging), "rb") as source:
                left = kept.offset
                while left and (piece := source.read(min(_COPY, left))):
                    file.write(piece)
                    left -= len(piece)
        except FileNotFoundError:
            file.discard()
            raise UploadNotFound(kept.digest) from None
        except BaseException:
            file.discard()
            raise
        if left:
            file.discard()
            raise UploadNotFound(kept.digest)
        return file

    def path(self, name: str) -> Path:
        return self._folder / name

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def remove_before(self, moment: float) -> int:
        """Removes files that nobody wrote to since `moment` (seconds since the epoch). Returns how many."""
        removed = 0
        for entry in os.scandir(self._folder):
            try:
                if entry.stat().st_mtime < moment:
                    os.unlink(entry.path)
                    removed += 1
            except FileNotFoundError:
                pass
        return removed


class StagedFile:
    """One blob on its way in: written from its first byte to its last, hashed as it is written."""

    def __init__(self, path: Path, digest: str, size: int):
        self.path = path
        self.digest = digest
        self.size = size
        self._hash = Sha256Stream()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def offset(self) -> int:
        """Bytes so far."""
        return self._hash.size

    def write(self, data: bytes) -> None:
        """Raises SizeMismatch beyond the announced size."""
        if self.offset + len(data) > self.size:
            raise SizeMismatch(self.size, self.offset + len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(data)

    def sync(self) -> KeptUpload:
        """Makes what is there durable, and says what that is."""
        os.fdatasync(self._fd)
        return KeptUpload(self.digest, self.size, self.offset, self.path.name)

    def finish(self) -> Path:
        """Returns the complete, synced file. Raises DigestMismatch."""
        if self._hash.digest() != self.digest:
            raise DigestMismatch(self.digest, self._hash.digest())
        os.fdatasync(self._fd)
        self.close()
        return self.path

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
