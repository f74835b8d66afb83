"""Writable folders that cannot grow: one ext4 image for each attempt, on a loop device, made off the path.

A directory quota would do, but few hosts have project quotas on; an image is a hard bound everywhere where there are
loop devices, and costs about 2 ms by copying a formatted, sparse template (13 ms with mkfs). The template's UUID and
hash seed are constants, so that the order of a folder's entries is the same on every node. An image is never used
twice: what another attempt wrote cannot be found in it.

Without loop devices a tmpfs of that size stands in, if the settings allow it: as hard, but held in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import threading
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from animus_agent import uids
from animus_agent.errors import AgentError, SandboxUnavailable
from animus_agent.files import check, libc, opened

MIN_BYTES = 8 << 20

_FORMAT_ID = "7a0f1c52-6d1e-4c6a-9c1b-0a5d5e11f001"
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME = 2, 4, 8, 1024
_MNT_DETACH = 2
_MS_BIND = 4096
_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME


@dataclass(frozen=True, slots=True)
class Volume:
    """A mounted folder of at most `size_bytes`. `path` is empty and owned by root."""

    path: Path
    size_bytes: int


class LoopVolumes:
    """Makes and removes volumes; keeps no state but what is on disk and in the mount table."""

    kind = "loop-ext4"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)

    def create(self, name: str, size_bytes: int) -> Volume:
        size_bytes = max(size_bytes, MIN_BYTES)
        image, mount = self._image(name), self._directory / name
        mount.mkdir(mode=0o711, exist_ok=True)
        template = self._template(size_bytes)
        with opened(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
            _clone(template, fd)
            _mount_image(fd, mount)
        return Volume(mount, size_bytes)

    def remove(self, name: str) -> None:
        """Unmounts and deletes; absent is fine."""
        mount = self._directory / name
        unmount(mount)
        self._image(name).unlink(missing_ok=True)
        if mount.is_dir():
            mount.rmdir()

    def names(self) -> set[str]:
        return {entry.stem for entry in self._directory.iterdir() if not entry.name.startswith(".")}

    def _image(self, name: str) -> Path:
        return self._directory / f"{name}.img"

    def _template(self, size_bytes: int) -> Path:
        template = self._directory / f".template-{size_bytes}"
        with self._lock:
            if not template.exists():
                temporary = template.with_suffix(".tmp")
                with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
                    os.ftruncate(fd, size_bytes)
                _mkfs(temporary)
                os.replace(temporary, template)
        return template


class TmpfsVolumes:
    """The same bound in memory, for nodes without loop devices."""

    kind = "tmpfs"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)

    def create(self, name: str, size_bytes: int) -> Volume:
        mount = self._directory / name
        mount.mkdir(mode=0o711, exist_ok=True)
        size = max(size_bytes, MIN_BYTES)
        # As many inodes as the ext4 image has: a million empty files fill the host's memory otherwise.
        _mount("tmpfs", mount, "tmpfs", f"size={size},nr_inodes={max(1024, size >> 14)},mode=755")
        return Volume(mount, size)

    def remove(self, name: str) -> None:
        unmount(self._directory / name)
        if (self._directory / name).is_dir():
            (self._directory / name).rmdir()

    def names(self) -> set[str]:
        return {entry.name for entry in self._directory.iterdir()}


class FolderVolumes:
    """Plain folders without a bound: only for the fake driver, which runs nobody's code."""

    kind = "none"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, size_bytes: int) -> Volume:
        (self._directory / name).mkdir(exist_ok=True)
        return Volume(self._directory / name, size_bytes)

    def remove(self, name: str) -> None:
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def names(self) -> set[str]:
        return {entry.name for entry in self._directory.iterdir()}


class QuotaPool:
    """Hands out volumes; keeps `spare` of each primed size ready, and makes and removes in a thread. Other sizes are made
    when they are asked for: a spare holds a loop device.

    A volume is renamed by nobody: an attempt remembers the name it was given, and `keep` says after a restart which
    names are still held, everything else is removed.
    """

    def __init__(self, volumes: LoopVolumes | TmpfsVolumes | FolderVolumes, *, spare: int = 2) -> None:
        self.kind = volumes.kind
        self._volumes = volumes
        self._spare = spare
        self._ready: dict[int, deque[tuple[str, Volume]]] = defaultdict(deque)
        self._counter = 0
        # The volumes that are there, by their number's remainder: which range of user ids their containers have.
        self._taken: dict[int, str] = {}
        self._removals: deque[str] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self, held: set[str]) -> None:
        """Removes what no attempt holds, and begins to work."""
        for name in self._volumes.names() - held:
            self._volumes.remove(name)
        numbers = [int(name[1:]) for name in held if name[1:].isdigit()]
        self._counter = max(numbers, default=0)
        self._taken = {number % uids.RANGES: f"v{number}" for number in numbers}
        self._thread = threading.Thread(target=self._work, name="quota", daemon=True)
        self._thread.start()

    def prime(self, size_bytes: int) -> None:
        """Asks for spares of this size."""
        with self._wake:
            self._ready[size_bytes]
            self._wake.notify()

    def take(self, size_bytes: int) -> tuple[str, Volume]:
        """A fresh, empty volume and its name. Raises SandboxUnavailable."""
        with self._wake:
            waiting = self._ready.get(size_bytes)
            found = waiting.popleft() if waiting else None
            self._wake.notify()
        if found:
            return found
        try:
            return self._make(size_bytes)
        except OSError as error:
            raise SandboxUnavailable(f"no output volume: {error}", "QUOTA_UNAVAILABLE") from error

    def give_back(self, name: str) -> None:
        """To be removed, soon."""
        with self._wake:
            self._removals.append(name)
            self._wake.notify()

    def close(self) -> None:
        """Ends the thread after the pending removals, and removes the spares."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread:
            self._thread.join(timeout=30)
        for waiting in self._ready.values():
            for name, _ in waiting:
                self._volumes.remove(name)

    def _make(self, size_bytes: int) -> tuple[str, Volume]:
        with self._wake:
            if len(self._taken) == uids.RANGES:
                raise SandboxUnavailable("every range of user ids has a container", "UID_RANGES_UNAVAILABLE")
            self._counter += 1
            while self._counter % uids.RANGES in self._taken:
                self._counter += 1
            name = self._taken[self._counter % uids.RANGES] = f"v{self._counter}"
        try:
            return name, self._volumes.create(name, size_bytes)
        except BaseException:
            # Nobody was told its name, and the next try has another.
            with suppress(OSError):
                self._volumes.remove(name)
                self._free(name)
            raise

    def _free(self, name: str) -> None:
        with self._wake:
            # A volume that is given back twice frees nothing of the one that has its range since.
            self._taken = {number: other for number, other in self._taken.items() if other != name}

    def _work(self) -> None:
        while True:
            with self._wake:
                job = self._next()
                while job is None and not self._closing:
                    self._wake.wait()
                    job = self._next()
                if job is None:
                    return
            try:
                if isinstance(job, str):
                    self._volumes.remove(job)
                    self._free(job)
                else:
                    made = self._make(job)
                    with self._wake:
                        self._ready[job].append(made)
            except (OSError, AgentError):
                # `take` will meet the same error and tell it; a volume that cannot go now goes at the next start.
                with self._wake:
                    self._wake.wait(timeout=1.0)

    def _next(self) -> str | int | None:
        if self._removals:
            return self._removals.popleft()
        if not self._closing:
            for size, waiting in self._ready.items():
                if len(waiting) < self._spare:
                    return size
        return None


def bind(source: Path, target: Path) -> None:
    """The same folder under another path."""
    result = libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None)
    check(result, f"bind {source} at {target}")


def mounted(path: Path) -> bool:
    """Whether something is mounted right there. Not os.path.ismount: a bind on the same file system escapes it."""
    # Field 5, with spaces and the like in octal (proc_pid_mountinfo(5)).
    wanted = str(path.absolute()).translate({ord(c): f"\\{ord(c):03o}" for c in " \t\n\\"})
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split(" ", 5)[4] == wanted for line in lines)


def unmount(path: Path) -> None:
    """Detaches whatever is mounted there, however often; nothing mounted is fine."""
    while mounted(path):
        if libc.umount2(os.fsencode(path), 0) < 0:
            check(libc.umount2(os.fsencode(path), _MNT_DETACH), f"unmount {path}")


def _mkfs(image: Path) -> None:
    program = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
    if not program:
        raise SandboxUnavailable("mkfs.ext4 is not installed", "QUOTA_UNAVAILABLE")
    command = [
        program, "-q", "-F", "-b", "4096", "-m", "0", "-N", str(max(1024, image.stat().st_size >> 14)), "-U", _FORMAT_ID,
        # No journal: the volume ends with its attempt, and nobody recovers it.
        "-O", "^has_journal,^resize_inode", "-E", f"lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed={_FORMAT_ID}",
        str(image),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise SandboxUnavailable(f"mkfs.ext4: {result.stderr.strip()[:500]}", "QUOTA_UNAVAILABLE")


def _clone(template: Path, target: int) -> None:
    """Copies only what holds data, so that the copy is as sparse."""
    with opened(template, os.O_RDONLY) as source:
        size = os.fstat(source).st_size
        os.ftruncate(target, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(source, start, os.SEEK_HOLE)
            while start < position:
                start += os.copy_file_range(source, target, position - start, start, start)


def _mount_image(fd: int, mount: Path) -> None:
    # struct loop_config (linux/loop.h): fd, block_size, loop_info64, 8 reserved words. One call instead of losetup.
    info = struct.pack("=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
    config = struct.pack("=II", fd, 4096) + info + bytes(64)
    with opened("/dev/loop-control", os.O_RDWR) as control:
        for attempt in range(16):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                # The device clears itself when the last user closes it, that is at unmount.
                _mount(f"/dev/loop{number}", mount, "ext4", "")
                return
            except OSError as error:
                # Another process took the free device between the two calls.
                if error.errno != 16 or attempt == 15:
                    raise
            finally:
                os.close(device)


def _mount(source: str, target: Path, kind: str, data: str) -> None:
    result = libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(_FLAGS), data.encode())
    check(result, f"mount {kind} at {target}")


def choose(directory: Path, *, allow_tmpfs: bool) -> LoopVolumes | TmpfsVolumes:
    """Loop devices if they work here, tried for real; otherwise tmpfs if allowed. Raises SandboxUnavailable."""
    volumes = LoopVolumes(directory)
    try:
        volumes.remove("probe")
        volumes.create("probe", MIN_BYTES)
        volumes.remove("probe")
        return volumes
    except (OSError, SandboxUnavailable) as error:
        if not allow_tmpfs:
            raise SandboxUnavailable(f"no loop devices for output volumes: {error}", "QUOTA_UNAVAILABLE") from error
    return TmpfsVolumes(directory)
