"""Root file systems by manifest digest: verified when made, read-only in use, evicted by size.

    cache/<hex>/rootfs/     what containers see
    cache/<hex>/listing     one line for each path: kind, mode, size, sha256 or target (JSON), sorted
    cache/<hex>/image.json  {listing: its digest, bytes, entries, platform}
    cache/.tmp-<…>/         being made; removed at start

A folder appears under its digest only whole: all checks first, then syncfs, then rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus_agent.errors import BlobError, ImageRefused, NodeDiskFull
from animus_agent.files import fsync_directory, is_full, opened, remove_tree, syncfs, tree_bytes, write_atomic
from animus_agent.images.manifest import BlobSource, Image, load
from animus_agent.images.mirrors import Mirrors
from animus_agent.images.stream import Bounds, LayerReader
from animus_agent.images.unpack import Unpacker
from animus_agent.sandbox.oci import MOUNT_POINTS
from animus_kit.digest import hex_of, sha256
from animus_kit.log import get_logger

log = get_logger(__name__)

CHECK_SECONDS = 0.2

# What a source gave is not what its digest says; another may have the right bytes.
_DAMAGED = frozenset({"IMAGE_DIGEST_MISMATCH", "IMAGE_SIZE_MISMATCH"})


@dataclass(frozen=True, slots=True)
class RootFs:
    digest: str
    path: Path
    listing_digest: str


class SingleFlight:
    """One maker for each key; the others wait for it and then find the thing made.

    A maker that fails fails alone: the next in line makes it with its own source and rights. `check` is called while
    waiting and may raise, so that a canceled attempt does not stand in line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: str, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        with self._lock:
            lock, users = self._flights.get(key, (threading.Lock(), 0))
            self._flights[key] = (lock, users + 1)
        try:
            while not lock.acquire(timeout=CHECK_SECONDS):
                check()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                lock, users = self._flights[key]
                if users == 1:
                    del self._flights[key]
                else:
                    self._flights[key] = (lock, users - 1)


class ImageCache:
    """`max_bytes`: what unused images may take; those that attempts hold are never evicted. `mirrors` are asked before
    the source that an attempt comes with."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = 200 << 30,
        bounds: Bounds | None = None,
        mirrors: Mirrors | None = None,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._bounds = bounds or Bounds()
        self._mirrors = mirrors or Mirrors()
        self._flight = SingleFlight()
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        # One at a time looks at every folder: what another removes meanwhile would be an error.
        self._evicting = threading.Lock()
        self._verified: set[str] = set()
        # Containers reach their root through these folders with the mapped user's rights.
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        for left in directory.glob(".tmp-*"):
            remove_tree(left)

    @contextmanager
    def holding(self, digest: str) -> Iterator[None]:
        """While held an image is not evicted, also before it is made."""
        with self._lock:
            self._held[digest] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[digest] -= 1
                if not self._held[digest]:
                    del self._held[digest]

    def get(self, digest: str, platform: str, source: BlobSource, check: Callable[[], None] = lambda: None) -> RootFs:
        """The root file system of an image, made if absent; `check` is called now and then and may raise to give up.

        One that an earlier process made is verified against its listing before its first use by this one. Raises
        ImageRefused, BlobError, NodeDiskFull.
        """
        with self.holding(digest), self._flight.of(digest, check):
            found = self._find(digest, platform)
            if found is None:
                self._fetch(digest, platform, source, check)
                found = self._find(digest, platform)
                assert found is not None
                self.evict()
            os.utime(found.path.parent)
            return found

    def verify(self, digest: str) -> bool:
        """Hashes a cached image again; what differs from its listing is removed."""
        home = self._directory / hex_of(digest)
        expected = (self._about(digest) or {}).get("listing")
        with opened(home / "rootfs", os.O_RDONLY | os.O_DIRECTORY) as root:
            good = sha256("".join(_listing(root)).encode("utf-8", "surrogateescape")) == expected
        if not good:
            self._remove(home)
        return good

    def digests(self) -> list[str]:
        """Those in the cache, least recently used first."""
        homes = [p for p in self._directory.iterdir() if not p.name.startswith(".")]
        return [f"sha256:{p.name}" for p in sorted(homes, key=lambda p: p.stat().st_mtime)]

    def evict(self, most: int | None = None, enough: Callable[[], bool] = lambda: False) -> int:
        """Removes the least recently used of what nobody holds, until no more than `most` bytes (else `max_bytes`) stay, or
        it is enough. Returns the bytes removed."""
        most = self._max_bytes if most is None else most
        removed = 0
        with self._evicting:
            sizes = {d: self._bytes(d) for d in self.digests()}
            total = sum(sizes.values())
            for digest, size in sizes.items():
                if total <= most or enough():
                    break
                with self._lock:
                    if self._held[digest]:
                        continue
                    self._verified.discard(digest)
                    # Renamed under the lock, so that nobody can find it and use it while it is removed.
                    doomed = self._set_aside(self._directory / hex_of(digest))
                remove_tree(doomed)
                total -= size
                removed += size
        return removed

    def _bytes(self, digest: str) -> int:
        about = self._about(digest)
        return about["bytes"] if about else 0

    def _about(self, digest: str) -> dict[str, Any] | None:
        """What stands beside a cached image; None when it is absent, or not readable, which is as good."""
        try:
            about = json.loads((self._directory / hex_of(digest) / "image.json").read_bytes())
            kinds = [type(about[key]) for key in ("bytes", "listing", "platform")]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return about if kinds == [int, str, str] else None

    def _find(self, digest: str, platform: str) -> RootFs | None:
        home = self._directory / hex_of(digest)
        about = self._about(digest)
        if about is None:
            if home.exists():
                self._remove(home)
            return None
        if about["platform"] != platform:
            raise ImageRefused(f"the image is for {about['platform']}, not {platform}", "IMAGE_PLATFORM_MISMATCH")
        if digest not in self._verified:
            if not self.verify(digest):
                log.warning("a cached image was damaged", image=digest)
                return None
            self._verified.add(digest)
        return RootFs(digest, home / "rootfs", about["listing"])

    def _fetch(self, digest: str, platform: str, source: BlobSource, check: Callable[[], None]) -> None:
        """From the first source that has it undamaged: the mirrors, then the attempt's own, whose failure counts."""
        for mirror in self._mirrors.sources(check):
            try:
                return self._make_room_and_make(digest, platform, mirror, check)
            except BlobError:
                continue
            except ImageRefused as error:
                if error.reason not in _DAMAGED:
                    raise
                mirror.damaged(error)
        self._make_room_and_make(digest, platform, source, check)

    def _make_room_and_make(self, digest: str, platform: str, source: BlobSource, check: Callable[[], None]) -> None:
        """A full disk is answered by giving up what nobody uses, once."""
        try:
            return self._make(digest, platform, source, check)
        except OSError as error:
            if not is_full(error):
                raise
            log.warning("disk full; evicting images", error_text=str(error), evicted_bytes=self.evict(0))
        try:
            self._make(digest, platform, source, check)
        except OSError as error:
            if is_full(error):
                raise NodeDiskFull(f"no room for image {digest}: {error}") from error
            raise

    def _make(self, digest: str, platform: str, source: BlobSource, check: Callable[[], None]) -> None:
        image = load(source, digest, platform)
        if sum(layer.size for layer in image.layers) > self._bounds.total_bytes:
            raise ImageRefused(f"the image is larger than {self._bounds.total_bytes} bytes", "IMAGE_TOO_LARGE")
        temporary = self._directory / f".tmp-{secrets.token_hex(8)}"
        rootfs = temporary / "rootfs"
        try:
            rootfs.mkdir(parents=True)
            with opened(rootfs, os.O_RDONLY | os.O_DIRECTORY) as root:
                self._unpack(image, source, root, check)
                listing = list(_listing(root))
            data = "".join(listing).encode("utf-8", "surrogateescape")
            (temporary / "listing").write_bytes(data)
            about = {
                "listing": sha256(data),
                "bytes": tree_bytes(rootfs),
                "entries": len(listing),
                "platform": image.platform,
            }
            write_atomic(temporary / "image.json", json.dumps(about).encode(), durable=False)
            os.chmod(temporary, 0o711)
            os.chmod(rootfs, 0o755)
            syncfs(self._directory)
            os.rename(temporary, self._directory / hex_of(digest))
            fsync_directory(self._directory)
            self._verified.add(digest)
        except BaseException:
            remove_tree(temporary)
            raise

    def _unpack(self, image: Image, source: BlobSource, root: int, check: Callable[[], None]) -> None:
        unpacker = Unpacker(root, self._bounds)
        budget = self._bounds.total_bytes
        for layer in image.layers:
            check()
            chunks = _checked(source.open(layer.digest, image.digest), check)
            reader = LayerReader(chunks, layer, self._bounds, budget)
            try:
                unpacker.apply(reader)
                reader.finish()
            except ImageRefused as error:
                if error.reason not in _DAMAGED:
                    reader.blame()
                raise
            budget -= reader.plain_bytes
        _make_mount_points(root)
        unpacker.finish()

    def _remove(self, home: Path) -> None:
        with self._evicting:
            doomed = self._set_aside(home)
        remove_tree(doomed)

    def _set_aside(self, home: Path) -> Path:
        doomed = self._directory / f".tmp-{secrets.token_hex(8)}"
        os.rename(home, doomed)
        return doomed


def _checked(chunks: Iterable[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        check()
        yield chunk


def _make_mount_points(root: int) -> None:
    for name in MOUNT_POINTS:
        try:
            os.mkdir(name, 0o755, dir_fd=root)
        except FileExistsError:
            # A link here could send a mount elsewhere in the root.
            if not stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
                raise ImageRefused(f"/{name} must be a folder in the image", "IMAGE_RESERVED_PATH") from None
        # runc 1.1 gives a tmpfs the mode of the folder that it covers.
        os.chmod(name, 0o1777 if name == "tmp" else 0o755, dir_fd=root)
        os.utime(name, (0, 0), dir_fd=root)


def _listing(folder: int, prefix: str = "") -> Iterator[str]:
    """Every path under an open folder, depth first, names in byte order, no link followed."""
    for name in sorted(os.listdir(folder), key=os.fsencode):
        path = f"{prefix}{name}"
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield _line(path, "dir", state.st_mode, 0, "")
            with opened(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder) as child:
                yield from _listing(child, f"{path}/")
        elif stat.S_ISLNK(state.st_mode):
            yield _line(path, "link", 0, 0, os.readlink(name, dir_fd=folder))
        elif stat.S_ISREG(state.st_mode):
            with opened(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder) as fd, os.fdopen(os.dup(fd), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield _line(path, "file", state.st_mode, state.st_size, digest)
        else:
            yield _line(path, "other", state.st_mode, 0, "")


def _line(path: str, kind: str, mode: int, size: int, what: str) -> str:
    return json.dumps([path, kind, oct(stat.S_IMODE(mode)), size, what], ensure_ascii=False) + "\n"
