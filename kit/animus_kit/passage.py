"""Starts programs as an unprivileged account, also those that stand below a folder which that account may not enter.

A clone in /root, mode 0700, is the usual case: the account `animus` could not even execute the interpreter. The program
then gets a mount namespace of its own (mount_namespaces(7)) in which the private folder is an empty one with nothing but the
installation in it: the rest of that folder is not merely closed to it, it is not there.

    arguments, identity = passage.to([sys.executable, "-m", "animus_catalog", "serve"], account)
    subprocess.Popen(arguments, **identity)
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000


def barrier(who: pwd.struct_passwd, path: Path | None = None) -> Path | None:
    """The topmost folder on the way to path (default: this installation) that the account may not enter, or None."""
    path = Path(sys.prefix) if path is None else path
    for folder in (*reversed(path.parents), path):
        found = folder.stat()
        bit = 0o100 if found.st_uid == who.pw_uid else 0o010 if found.st_gid == who.pw_gid else 0o001
        if not found.st_mode & bit:
            return folder
    return None


def to(arguments: Sequence[Any], who: pwd.struct_passwd | None) -> tuple[list[str], dict[str, Any]]:
    """The command that runs arguments as the account, and what subprocess must be told; who None: as they are."""
    words = [str(argument) for argument in arguments]
    if who is None:
        return words, {}
    closed = barrier(who)
    if closed is None:
        return words, {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    wrapped = [sys.executable, "-m", "animus_kit.passage", str(who.pw_uid), str(who.pw_gid), str(closed), *words]
    return wrapped, {}


def _installation(closed: Path) -> list[Path]:
    """What must be visible below the closed folder: the venv, with the repository around it, and the interpreter."""
    prefix, base = Path(sys.prefix), Path(sys.base_prefix)
    if closed == prefix.parent:
        # The repository itself is closed: shown as a whole it would be closed again, so that its folders are shown.
        shown = [child for child in closed.iterdir() if child.is_dir() and not child.is_symlink()]
    else:
        shown = [prefix.parent if closed in prefix.parent.parents else prefix]
    seen = any(path in (base, *base.parents) for path in shown)
    return shown if seen or closed not in base.parents else [*shown, base]


def _enter(closed: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        words = [word.encode() for word in (source, target, kind)]
        check(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")

    check(libc.unshare(_CLONE_NEWNS), "unshare")
    # Nothing of this may reach the machine's own namespace.
    mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    kept = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in _installation(closed)]
    mount("tmpfs", str(closed), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0711,size=64k")
    for path, descriptor in kept:
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
        mount(f"/proc/self/fd/{descriptor}", str(path), "none", _MS_BIND | _MS_REC)
        os.close(descriptor)


def main(arguments: Sequence[str]) -> None:
    """UID GID FOLDER COMMAND…: replaces itself with the command."""
    uid, gid, closed, *command = arguments
    try:
        _enter(Path(closed))
    except OSError as error:
        sys.exit(
            f"{closed} is closed to the account that services run as, and cannot be opened here ({error}): move it"
        )
    who = pwd.getpwuid(int(uid))
    for needed in (Path(sys.prefix), Path(__file__).parent):
        if inner := barrier(who, needed):
            sys.exit(f"{inner} is closed to the account {who.pw_name}, which services run as: chmod -R go+rX {inner}")
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
