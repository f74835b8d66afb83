"""What the process table tells: what runs, what it would hear, and when it ends."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from animus_agent.errors import SandboxUnavailable, StartFailed


def program(name: str) -> str:
    """Where it is installed. Raises SandboxUnavailable."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if not found:
        raise SandboxUnavailable(f"{name} is not installed", f"{name.upper()}_MISSING")
    return found


def running(programs: Set[bytes], arguments: Set[bytes]) -> list[int]:
    """Processes of one of these programs (by file name) that have all these arguments."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if arguments.issubset(words) and os.path.basename(words[0]) in programs:
                    found.append(int(entry.name))
    return found


def catches(pid: int, signal: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal - 1) & 1)
    return False


def ended(pidfd: int, seconds: float) -> bool:
    """Whether a process has ended, or does within so long."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0, int(seconds * 1000))))


def read_line(fd: int, seconds: float) -> bytes:
    """One line from conmon's pipe. Other ends of it may stay open in conmon, so that waiting for the end would hang."""
    line = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    while not line.endswith(b"\n"):
        if not poll.poll(int(seconds * 1000)):
            raise StartFailed("the runtime did not create the container in time", "CONTAINER_START_TIMEOUT")
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        line += chunk
    return line
