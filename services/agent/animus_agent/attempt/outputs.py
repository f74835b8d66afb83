"""What the step left behind, treated as hostile: regular files only, no link followed, bounded, hashed, uploaded."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from animus_agent.attempt.attempt import Attempt, HashedOutput
from animus_agent.attempt.failure import AttemptFailed, FailureClass
from animus_agent.attempt.ports import SMALL_BLOBS, SMALL_BYTES
from animus_agent.attempt.prepare import work_folder
from animus_agent.errors import BlobCorrupt, OutputRefused
from animus_agent.files import of_its_shape
from animus_kit.digest import sha256
from animus_kit.documents import folder, manifest
from animus_kit.documents.errors import DocumentError
from animus_kit.documents.result import OutputDigest

PARALLEL_UPLOADS = 4
# The same step leaves the same again: nobody retries it.
_TOO_MUCH = frozenset({"TOO_LARGE", "TOO_MANY_ENTRIES"})


def hash_outputs(attempt: Attempt) -> None:
    """Fills `attempt.outputs` with one manifest for each declared output. Raises OutputRefused; AttemptFailed with
    DISK_LIMIT where there is more than the contract lets it leave."""
    assert attempt.volume is not None
    limits = attempt.order.limits
    entries_left, bytes_left = limits.output_files, limits.output_bytes
    attempt.outputs = []
    for output in attempt.order.action.outputs:
        path = work_folder(attempt.volume) / "outputs" / output.name
        bounds = folder.Limits(max_entries=entries_left, max_bytes=bytes_left)
        try:
            # Its parent is root's, so that no step can put something else there; and if one could, it is not followed.
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise OutputRefused(f"output {output.name!r} is no folder", "OUTPUT_UNREADABLE")
            entries = folder.build(path, manifest.ARTIFACT, bounds, partial(_hash, attempt))
            data = manifest.dumps(entries, manifest.ARTIFACT)
        except DocumentError as error:
            message, reason = f"output {output.name!r}: {error}", f"OUTPUT_{error.reason}"[:63]
            if error.reason in _TOO_MUCH:
                raise AttemptFailed(FailureClass.DISK_LIMIT, reason, message) from error
            raise OutputRefused(message, reason) from error
        except OSError as error:
            if not of_its_shape(error):
                raise
            raise OutputRefused(f"output {output.name!r} cannot be read: {error}", "OUTPUT_UNREADABLE") from error
        if not entries:
            raise OutputRefused(f"output {output.name!r} was declared and is empty", "OUTPUT_MISSING")
        total = sum(entry.size for entry in entries)
        entries_left, bytes_left = entries_left - len(entries), bytes_left - total
        digest = OutputDigest(name=output.name, manifest=sha256(data), files=len(entries), bytes=total)
        attempt.outputs.append(HashedOutput(digest, tuple(entries), data))
        attempt.check()


def _hash(attempt: Attempt, found: folder.Found, descriptor: int) -> tuple[int, str]:
    """As folder.hash_file, but a file of many gigabytes does not outlast a cancel or a lease."""
    digest, size = hashlib.sha256(), 0
    while chunk := os.read(descriptor, folder.CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if size > found.size:
            # It grows as it is read; the caller says so.
            break
        attempt.check()
    return size, digest.hexdigest()


def upload(attempt: Attempt) -> None:
    """Every file and manifest once, then each manifest's seal. Small ones go together, with their seals: each call costs the
    catalog a round to its disk, and a chain of steps waits for the sum. The sink hashes again what it reads: bytes that
    changed since they were hashed are refused, not stored. Raises BlobError."""
    assert attempt.volume is not None
    root = work_folder(attempt.volume) / "outputs"
    files: dict[str, tuple[Path, manifest.Entry]] = {}
    for output in attempt.outputs:
        for entry in output.entries:
            files.setdefault(entry.digest, (root / output.digest.name, entry))
    small, left = _small(attempt, files)
    manifests = {output.digest.manifest: output.manifest for output in attempt.outputs}
    for digest, data in manifests.items():
        if len(small) < SMALL_BLOBS and len(data) <= left:
            small[digest] = data
            left -= len(data)
    sink = attempt.ports.sink
    jobs: list[Callable[[], None]] = [
        partial(_upload_file, attempt, *item) for digest, item in files.items() if digest not in small
    ]
    jobs += [
        partial(sink.write, digest, len(data), _reader(data))
        for digest, data in manifests.items()
        if digest not in small
    ]
    if jobs:
        with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="upload") as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
    attempt.small = small
    if small:
        # After the large ones, since a seal speaks of all that its manifest names.
        sink.write_small(small, [digest for digest in manifests if digest in small])
    for digest in manifests:
        if digest not in small:
            sink.seal(digest)


def keep(attempt: Attempt) -> None:
    """Puts small outputs where the next step of a chain looks for its inputs: it often runs on this very node, and fetches
    them while everybody waits. Once the result is told, so that nobody waits for this."""
    epoch = attempt.order.action.source_date_epoch
    for output in attempt.outputs:
        needed = {entry.digest for entry in output.entries} | {output.digest.manifest}
        if needed <= attempt.small.keys():
            # As any other source: what it gives is hashed again. It is a cache, and whatever goes wrong in it is no
            # reason to tell the result twice.
            with suppress(Exception):
                attempt.ports.trees.get(output.digest.manifest, epoch, manifest.ARTIFACT, _Read(attempt.small))
    attempt.small = {}


class _Read:
    """A BlobSource of what was read already."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        return iter((self._blobs[digest],))


def _small(attempt: Attempt, files: dict[str, tuple[Path, manifest.Entry]]) -> tuple[dict[str, bytes], int]:
    """The smallest files, read, as far as they go into one call; and how many bytes more would."""
    found: dict[str, bytes] = {}
    left = SMALL_BYTES
    # A place for each manifest, without which nothing is sealed.
    places = SMALL_BLOBS - len(attempt.outputs)
    for digest, (root, entry) in sorted(files.items(), key=lambda item: item[1][1].size):
        if len(found) >= places or entry.size > left:
            break
        with _opened(attempt, root, entry) as descriptor:
            found[digest] = os.pread(descriptor, entry.size, 0)
        left -= entry.size
    return found, left


def _upload_file(attempt: Attempt, root: Path, entry: manifest.Entry) -> None:
    with _opened(attempt, root, entry) as descriptor:
        attempt.ports.sink.write(entry.digest, entry.size, lambda size, offset: os.pread(descriptor, size, offset))


@contextmanager
def _opened(attempt: Attempt, root: Path, entry: manifest.Entry) -> Iterator[int]:
    attempt.check()
    try:
        descriptor = _open_inside(root, entry.path)
    except OSError as error:
        if not of_its_shape(error):
            raise
        raise BlobCorrupt(f"{entry.path!r} changed after it was hashed: {error}", "OUTPUT_CHANGED") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size != entry.size or state.st_nlink != 1:
            raise BlobCorrupt(f"{entry.path!r} changed after it was hashed", "OUTPUT_CHANGED")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_inside(root: Path, path: str) -> int:
    """Opens part by part, following no link."""
    *folders, name = path.split("/")
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=current)
    finally:
        os.close(current)


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda size, offset: data[offset : offset + size]
