"""Files whose content becomes part of a container, or is run as root: believed only where nobody else can have written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from animus_agent.errors import GpuUnavailable
from animus_agent.files import opened

MAX_BYTES = 4 << 20


def read_rooted(path: Path) -> bytes:
    """The bytes of a regular file that only root may have written, and whose folders only root may rename.

    Raises GpuUnavailable NOT_ROOTED, OSError.
    """
    check_folders(path)
    with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        _check(os.fstat(fd), path, stat.S_ISREG)
        if os.fstat(fd).st_size > MAX_BYTES:
            raise GpuUnavailable(f"{path} is larger than {MAX_BYTES} bytes", "NOT_ROOTED")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(MAX_BYTES + 1)


def check_program(path: Path) -> None:
    """A program that root may run: a regular file, executable, only root's. Raises GpuUnavailable, OSError."""
    check_folders(path)
    state = os.lstat(path)
    _check(state, path, stat.S_ISREG)
    if not state.st_mode & 0o100:
        raise GpuUnavailable(f"{path} is not executable", "NOT_ROOTED")


def check_folders(path: Path) -> None:
    """Every folder above `path`: whoever could write one could put another file in its place."""
    if not path.is_absolute() or ".." in path.parts:
        raise GpuUnavailable(f"{path} is not an absolute path", "NOT_ROOTED")
    for folder in path.parents:
        state = os.lstat(folder)
        if stat.S_ISDIR(state.st_mode) and state.st_uid == 0 and state.st_mode & stat.S_ISVTX:
            continue  # in a sticky folder of root's, such as /tmp, nobody renames what is root's
        _check(state, folder, stat.S_ISDIR)


def _check(state: os.stat_result, path: Path, kind) -> None:  # type: ignore[no-untyped-def]
    if not kind(state.st_mode):
        raise GpuUnavailable(f"{path} is not what it should be: a link, or another kind of file", "NOT_ROOTED")
    if state.st_uid != 0:
        raise GpuUnavailable(f"{path} belongs to uid {state.st_uid}, not to root", "NOT_ROOTED")
    if state.st_mode & 0o022:
        raise GpuUnavailable(f"{path} can be written by others than root", "NOT_ROOTED")
