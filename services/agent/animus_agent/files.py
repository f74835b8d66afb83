"""Small file-system helpers that say what they promise about crashes."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Raises OSError for a libc call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def write_atomic(path: Path, data: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Replaces `path` as a whole.

    Without `durable` the change survives the death of this process, but not of the machine; a reboot is recognised by
    its boot id anyway, so that most of an attempt's marks need no more.
    """
    # Of this thread alone: two that write the same file must not write into one another's.
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    if durable:
        fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def syncfs(path: Path) -> None:
    """Flushes the whole file system of `path`: one call instead of an fsync for each of many thousand files."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        check(libc.syncfs(fd), "syncfs")


@contextmanager
def opened(path: Path | str, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def of_its_shape(error: OSError) -> bool:
    """Whether what lies there cannot be opened as a file, rather than the disk having failed."""
    return error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENXIO, errno.EISDIR)


def is_full(error: OSError) -> bool:
    """Whether the disk, its inodes or a quota ran out."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_tree(path: Path) -> None:
    """Removes a folder of ours, read-only parts too; absent is fine. `shutil.rmtree` follows no links on Linux."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)


def tree_bytes(path: Path) -> int:
    """Bytes on disk under `path`."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def spare_memory() -> None:
    """Two arenas instead of one for each thread, since few allocate at once; and large buffers of their own mapping, which
    goes when they do: glibc would raise that bound with the first of them (mallopt(3)). To be called before threads."""
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 << 10)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 10)


def return_memory() -> None:
    """Gives back what is not needed any more; some milliseconds, so for when there is nothing to do."""
    gc.collect()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def boot_id() -> str:
    """The kernel's id of this boot: other than recorded means that everything that ran is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
