"""Input folders by manifest digest: every file hashed as it comes, read-only, with one owner and one time.

    trees/<hex>-<epoch>/manifest   the manifest's bytes
    trees/<hex>-<epoch>/tree/      the files, 0444 or 0555, mtime = the epoch
    trees/.part-<hex>-<epoch>/     being fetched; what it holds already is hashed and kept by the next try
    trees/.gone-<hex>-<epoch>-<…>/ found damaged, and removed when no container can be using it any more

Files are not shared between trees: a link count seen in a container would tell what else this node has.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from animus_agent.errors import BlobCorrupt, ContractRefused, NodeDiskFull
from animus_agent.files import fsync_directory, is_full, opened, remove_tree, syncfs, tree_bytes
from animus_agent.images.cache import SingleFlight
from animus_agent.images.manifest import BlobSource
from animus_kit.digest import hex_of, sha256
from animus_kit.documents import folder, manifest
from animus_kit.documents.errors import DocumentError

MAX_MANIFEST_BYTES = 2 << 30
PARALLEL_READS = 4
# Fetched with the folder itself; more is not worth a thread.
PARALLEL_FROM_FILES = 8


@dataclass(frozen=True, slots=True)
class Tree:
    digest: str
    path: Path
    profile: str
    fresh: bool
    """Made by this call: every byte was hashed a moment ago."""


class TreeCache:
    """`max_bytes`: what unused trees may take."""

    def __init__(self, directory: Path, *, max_bytes: int = 200 << 30) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._flight = SingleFlight()
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._aside: dict[str, list[Path]] = {}
        # One at a time looks at every folder: what another removes meanwhile would be an error.
        self._evicting = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        for left in directory.glob(".gone-*"):
            # Of a process before us, whose containers may run on it: who adopts them holds it before anything is evicted.
            self._aside.setdefault(left.name.removeprefix(".gone-").rpartition("-")[0], []).append(left)
        # Looked at once: for every small output that is kept, a folder of many thousand trees is too much to look at.
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        for home in directory.glob("[!.]*"):
            self._count(home)

    @contextmanager
    def holding(self, digest: str, epoch: int) -> Iterator[None]:
        """While held a tree is not evicted, nor what it replaced removed."""
        key = _key(digest, epoch)
        with self._lock:
            self._held[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]
            self._remove_aside(key)

    def get(
        self, digest: str, epoch: int, profile: str, source: BlobSource, check: Callable[[], None] = lambda: None
    ) -> Tree:
        """The folder behind a manifest, fetched if absent; `check` is called between files and may raise to give up.

        Raises BlobError, BlobCorrupt, ContractRefused (the manifest breaks a rule of its profile).
        """
        key = _key(digest, epoch)
        home = self._directory / key
        with self.holding(digest, epoch), self._flight.of(key, check):
            fresh = not home.exists()
            if fresh:
                self._make_room_and_make(digest, epoch, profile, source, check)
                self.evict()
            os.utime(home)
            return Tree(digest, home / "tree", profile, fresh)

    def at(self, digest: str, epoch: int, profile: str) -> Tree:
        """Where the folder behind a manifest lies if it is here, for a container that was given it before."""
        return Tree(digest, self._directory / _key(digest, epoch) / "tree", profile, fresh=False)

    def verify(self, tree: Tree, check: Callable[[], None] = lambda: None) -> bool:
        """Builds the manifest again out of what lies on disk. One that differs is not given out again. `check` is called
        between pieces of files and may raise to give up."""
        found = identity(tree.path)
        try:
            entries = folder.build(tree.path, tree.profile, hasher=partial(_hash, check))
            good = sha256(manifest.dumps(entries, tree.profile)) == tree.digest
        except (DocumentError, OSError):
            good = False
        if not good:
            self._drop(tree.path.parent.name, found)
        return good

    def evict(self, most: int | None = None, enough: Callable[[], bool] = lambda: False) -> None:
        """Removes the least recently used of what nobody holds, until no more than `most` bytes (else `max_bytes`) stay, or
        it is enough. With `most` 0 also what was fetched in part."""
        most = self._max_bytes if most is None else most
        with self._lock:
            aside = list(self._aside)
        for key in aside:
            self._remove_aside(key)
        if self._bytes <= most and most > 0:
            return
        with self._evicting:
            if most == 0:
                self._remove_parts()
            for home in sorted(self._directory.glob("[!.]*"), key=lambda home: home.stat().st_mtime):
                if self._bytes <= most or enough():
                    return
                with self._lock:
                    if self._held[home.name]:
                        continue
                    # Renamed under the lock, so that nobody can find it and use it while it is removed.
                    gone = self._set_aside(home.name)
                if gone is not None:
                    remove_tree(gone)

    def _remove_parts(self) -> None:
        """What an attempt that gave up had fetched: nobody may ever ask for it again."""
        for part in self._directory.glob(".part-*"):
            with self._lock:
                gone = None if self._held[part.name.removeprefix(".part-")] else self._set_aside(part.name)
            if gone is not None:
                remove_tree(gone)

    def _drop(self, name: str, found: tuple[int, int] | None) -> None:
        """A tree that failed verification; not another that was fetched in its place meanwhile. A container may still run
        on it, so that its files stay until nobody holds it: its attempt ends TAINTED, by itself."""
        with self._evicting, self._lock:
            if identity(self._directory / name / "tree") != found:
                return
            gone = self._set_aside(name)
            if gone is not None:
                self._aside.setdefault(name, []).append(gone)
        self._remove_aside(name)

    def _remove_aside(self, key: str) -> None:
        with self._lock:
            gone = [] if self._held[key] else self._aside.pop(key, [])
        for path in gone:
            # What cannot be removed now is found by the next process; whoever held it has nothing to do with that.
            with suppress(OSError):
                remove_tree(path)

    def _count(self, home: Path) -> None:
        """A tree that is there from now on."""
        try:
            size = int((home / "bytes").read_text())
        except (OSError, ValueError):
            # Torn by a power cut, as its files may be: it is verified before it is used.
            size = tree_bytes(home)
        with self._lock:
            self._bytes += size - self._sizes.get(home.name, 0)
            self._sizes[home.name] = size

    def _set_aside(self, name: str) -> Path | None:
        """Under the lock."""
        self._bytes -= self._sizes.pop(name, 0)
        gone = self._directory / f".gone-{name}-{secrets.token_hex(8)}"
        try:
            os.rename(self._directory / name, gone)
        except FileNotFoundError:
            return None
        return gone

    def _make_room_and_make(
        self, digest: str, epoch: int, profile: str, source: BlobSource, check: Callable[[], None]
    ) -> None:
        """A full disk is answered by giving up what nobody uses, once. What was fetched already is kept for it."""
        try:
            return self._make(digest, epoch, profile, source, check)
        except OSError as error:
            if not is_full(error):
                raise
            self.evict(0)
        try:
            self._make(digest, epoch, profile, source, check)
        except OSError as error:
            if is_full(error):
                raise NodeDiskFull(f"no room for input {digest}: {error}") from error
            raise

    def _make(self, digest: str, epoch: int, profile: str, source: BlobSource, check: Callable[[], None]) -> None:
        part = self._directory / f".part-{_key(digest, epoch)}"
        tree = part / "tree"
        tree.mkdir(parents=True, exist_ok=True)
        _fetch_manifest(source, digest, part / "manifest")
        try:
            with (part / "manifest").open("rb") as file:
                entries = list(manifest.read(iter(lambda: file.read(1 << 20), b""), profile))
        except DocumentError as error:
            raise ContractRefused(f"manifest {digest}: {error}", "MANIFEST_INVALID") from error
        wanted = {entry.path for entry in entries}
        _remove_others(tree, wanted)
        for path in sorted({os.path.dirname(entry.path) for entry in entries}):
            (tree / path).mkdir(parents=True, exist_ok=True)

        def place(entry: manifest.Entry) -> None:
            check()
            _place(tree, entry, epoch, digest, source)

        if len(entries) < PARALLEL_FROM_FILES:
            for entry in entries:
                place(entry)
        else:
            with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="fetch") as pool:
                for _ in pool.map(place, entries):
                    pass
        for directory, _, _ in os.walk(tree, topdown=False):
            os.chmod(directory, 0o755)
            os.utime(directory, (epoch, epoch))
        (part / "bytes").write_text(str(tree_bytes(part)))
        os.chmod(part, 0o711)
        if len(entries) >= PARALLEL_FROM_FILES:
            # A small tree that a power cut broke fails its verification and is fetched again; a large one is worth it.
            syncfs(self._directory)
        home = self._directory / _key(digest, epoch)
        os.rename(part, home)
        self._count(home)
        if len(entries) >= PARALLEL_FROM_FILES:
            fsync_directory(self._directory)


def identity(tree: Path) -> tuple[int, int] | None:
    """Which folder lies there, as long as it is not removed: a mount goes on showing the one that it was made of."""
    try:
        state = os.stat(tree)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


def _hash(check: Callable[[], None], found: folder.Found, descriptor: int) -> tuple[int, str]:
    hasher, size = hashlib.sha256(), 0
    while chunk := os.read(descriptor, folder.CHUNK):
        check()
        hasher.update(chunk)
        size += len(chunk)
    return size, hasher.hexdigest()


def _key(digest: str, epoch: int) -> str:
    return f"{hex_of(digest)}-{epoch}"


def _fetch_manifest(source: BlobSource, digest: str, path: Path) -> None:
    if path.exists() and hashlib.file_digest(path.open("rb"), "sha256").hexdigest() == hex_of(digest):
        return
    hasher, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in source.open(digest, digest):
            hasher.update(chunk)
            size += len(chunk)
            if size > MAX_MANIFEST_BYTES:
                raise BlobCorrupt(f"manifest {digest} is too large", "MANIFEST_TOO_LARGE")
            file.write(chunk)
    if hasher.hexdigest() != hex_of(digest):
        raise BlobCorrupt(f"the bytes of manifest {digest} have another digest")


def _place(tree: Path, entry: manifest.Entry, epoch: int, container: str, source: BlobSource) -> None:
    path = tree / entry.path
    if entry.kind == manifest.SYMLINK:
        path.unlink(missing_ok=True)
        os.symlink(entry.target, path)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
        return
    if not (path.exists() and _is(path, entry)):
        path.unlink(missing_ok=True)
        hasher, size = hashlib.sha256(), 0
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) as fd:
            for chunk in source.open(entry.digest, container) if entry.size else ():
                hasher.update(chunk)
                size += len(chunk)
                if size > entry.size:
                    break
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
        if size != entry.size or hasher.hexdigest() != entry.sha256:
            path.unlink()
            raise BlobCorrupt(f"the bytes of {entry.digest} have another size or digest")
    os.chmod(path, entry.mode)
    os.utime(path, (epoch, epoch))


def _is(path: Path, entry: manifest.Entry) -> bool:
    if path.is_symlink() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _remove_others(tree: Path, wanted: set[str]) -> None:
    """An interrupted fetch of the same manifest holds nothing else; a damaged folder might."""
    for directory, _, names in os.walk(tree):
        os.chmod(directory, 0o755)
        for name in names:
            path = Path(directory, name)
            if str(path.relative_to(tree)) not in wanted:
                path.unlink()
