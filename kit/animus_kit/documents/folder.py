"""Manifests of folders on disk, read without trusting what lies in them.

Used for a user's own dataset and for the outputs of a step, which are hostile: every name is opened relative to an open
folder and without following links, only regular files count, and counts, depth and bytes are bounded.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import manifest
from .errors import DocumentError
from .manifest import Entry

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a walk. Folders count towards `max_entries`, so that a tree of empty ones ends too."""

    max_entries: int = manifest.MAX_ENTRIES
    max_depth: int = 64
    max_bytes: int = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """A file or symlink that was met, not yet read. `target` is a symlink's."""

    path: str
    kind: str
    size: int
    target: str = ""


Hasher = Callable[[Found, int], tuple[int, str]]
"""Reads an open file (descriptor at 0) to its end and returns its size and SHA-256 in hex: hash_file, or one that also
uploads what it reads."""


def hash_file(found: Found, descriptor: int) -> tuple[int, str]:
    """Size and SHA-256 of an open file."""
    digest = hashlib.sha256()
    size = 0
    while chunk := os.read(descriptor, CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def build(
    root: str | os.PathLike[str],
    profile: str,
    limits: Limits = Limits(),
    hasher: Hasher = hash_file,
) -> list[Entry]:
    """The entries of a folder, sorted and checked, ready for `manifest.dumps` or a Writer.

    In a dataset the x-bit of whoever pushed is dropped. Raises DocumentError: PATH_INVALID (also for a name that is
    not UTF-8), SYMLINK_REFUSED, SPECIAL_FILE, HARD_LINK, FILE_CHANGED (it changed while it was read), TOO_MANY_ENTRIES,
    TOO_DEEP, TOO_LARGE; and OSError, for example where a file may not be read.
    """
    entries: list[Entry] = []
    total = 0
    for found, descriptor in walk(root, profile, limits):
        if found.kind == manifest.SYMLINK:
            entries.append(Entry(found.path, found.kind, target=found.target))
            continue
        before = os.fstat(descriptor)
        size, sha256 = hasher(found, descriptor)
        after = os.fstat(descriptor)
        if size != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DocumentError("FILE_CHANGED", "changed while it was read", found.path)
        total += size
        if total > limits.max_bytes:
            raise DocumentError("TOO_LARGE", f"more than {limits.max_bytes} bytes in all")
        entries.append(Entry(found.path, found.kind, size, sha256))
    entries.sort(key=manifest.sort_key)
    checker = manifest.Checker(profile)
    for entry in entries:
        checker.feed(entry)
    return entries


def walk(root: str | os.PathLike[str], profile: str, limits: Limits = Limits()) -> Iterator[tuple[Found, int]]:
    """Yields each file with an open descriptor, which is closed afterwards (-1 for a symlink), in no special order.

    Raises as `build`.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _Walk(profile, limits).folder(top, "", 0)
    finally:
        os.close(top)


class _Walk:
    def __init__(self, profile: str, limits: Limits) -> None:
        self._kinds = manifest.PROFILES[profile]
        self._profile = profile
        self._limits = limits
        self._seen = 0
        self._bytes = 0

    def folder(self, descriptor: int, prefix: str, depth: int) -> Iterator[tuple[Found, int]]:
        if depth > self._limits.max_depth:
            raise DocumentError("TOO_DEEP", f"more than {self._limits.max_depth} folders", prefix)
        for name in sorted(self._names(descriptor)):
            path = prefix + name
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                try:
                    yield from self.folder(inner, path + "/", depth + 1)
                finally:
                    os.close(inner)
            elif stat.S_ISLNK(status.st_mode):
                yield self._symlink(descriptor, name, path), -1
            else:
                yield from self._file(descriptor, name, path, status)

    def _names(self, descriptor: int) -> list[str]:
        names = []
        with os.scandir(descriptor) as found:
            for item in found:
                self._seen += 1
                if self._seen > self._limits.max_entries:
                    raise DocumentError("TOO_MANY_ENTRIES", f"more than {self._limits.max_entries}")
                # Names that are not UTF-8 come with lone surrogates, which check_path refuses.
                manifest.check_path(item.name)
                names.append(item.name)
        return names

    def _symlink(self, descriptor: int, name: str, path: str) -> Found:
        if manifest.SYMLINK not in self._kinds:
            raise DocumentError("SYMLINK_REFUSED", f"a {self._profile} holds no symlinks", path)
        target = os.readlink(name, dir_fd=descriptor)
        manifest.check_target(path, target)
        return Found(path, manifest.SYMLINK, 0, target)

    def _file(self, descriptor: int, name: str, path: str, status: os.stat_result) -> Iterator[tuple[Found, int]]:
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("SPECIAL_FILE", "not a regular file", path)
        # NONBLOCK: should it have become a FIFO since, open must not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(name, flags, dir_fd=descriptor)
        try:
            opened = os.fstat(handle)
            if not stat.S_ISREG(opened.st_mode):
                raise DocumentError("SPECIAL_FILE", "not a regular file", path)
            if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
                raise DocumentError("FILE_CHANGED", "was replaced while it was read", path)
            if self._profile == manifest.ARTIFACT and opened.st_nlink > 1:
                # A step cannot need one, and a link to a file of another attempt would carry its bytes out.
                raise DocumentError("HARD_LINK", "an output has no second name", path)
            self._bytes += opened.st_size
            if self._bytes > self._limits.max_bytes:
                raise DocumentError("TOO_LARGE", f"more than {self._limits.max_bytes} bytes in all", path)
            executable = opened.st_mode & stat.S_IXUSR and manifest.EXECUTABLE in self._kinds
            kind = manifest.EXECUTABLE if executable else manifest.FILE
            yield Found(path, kind, opened.st_size), handle
        finally:
            os.close(handle)
