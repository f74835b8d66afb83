"""Starting, finding, probing and ending one process.

A process is known by its pid and the time it started, so that a pid that was given to another is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from animus_cli.stack.layout import Layout
from animus_kit import passage

STOP_SECONDS = 20.0
POLL_SECONDS = 0.1


class ProcessDied(Exception):
    """A process ended while it was waited for. The message holds the end of its log."""


@dataclass(frozen=True)
class Program:
    """One process to run.

    probe: whether it answers, called again and again until it does. privileged: keeps root where the stack has it;
    everything else runs under the account `animus`.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    probe: Callable[[], bool]
    privileged: bool = False
    # Ports to show, by name.
    ports: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Running:
    """A process that was found alive."""

    pid: int
    started: int


def find(layout: Layout, name: str) -> Running | None:
    """The living process of that name, or None."""
    try:
        noted = json.loads((layout.run / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return None
    running = Running(noted["pid"], noted["started"])
    return running if _start_time(running.pid) == running.started else None


def start(layout: Layout, program: Program, who: pwd.struct_passwd | None) -> Running:
    """Starts it, detached from this process's session and terminal."""
    arguments, identity = passage.to(program.arguments, None if program.privileged else who)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(layout.root),
        "PYTHONDONTWRITEBYTECODE": "1",
        **program.environment,
    }
    with (layout.logs / f"{program.name}.log").open("ab") as log:
        child = subprocess.Popen(
            arguments,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **identity,
        )
    started = _start_time(child.pid)
    running = Running(child.pid, started or 0)
    path = layout.run / f"{program.name}.pid"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": running.pid, "started": running.started}))
    temporary.rename(path)
    return running


def wait_ready(layout: Layout, program: Program, deadline: float) -> None:
    """Returns when it answers. Raises ProcessDied, or TimeoutError at the deadline (time.monotonic())."""
    while True:
        if find(layout, program.name) is None:
            raise ProcessDied(f"{program.name} ended at its start:\n{log_tail(layout, program.name)}")
        if program.probe():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{program.name} does not answer:\n{log_tail(layout, program.name)}")
        time.sleep(POLL_SECONDS)


def stop(layout: Layout, name: str, *, seconds: float = STOP_SECONDS, kill: bool = False) -> bool:
    """Ends it: TERM, and KILL when it outlasts its time. Returns whether there was one."""
    running = find(layout, name)
    if running is None:
        (layout.run / f"{name}.pid").unlink(missing_ok=True)
        return False
    ended = _opened(running)
    _signal(running, signal.SIGKILL if kill else signal.SIGTERM)
    if not _wait_gone(running, ended, seconds):
        _signal(running, signal.SIGKILL)
        _wait_gone(running, ended, seconds)
    if ended is not None:
        os.close(ended)
    (layout.run / f"{name}.pid").unlink(missing_ok=True)
    return True


def log_tail(layout: Layout, name: str, size: int = 2000) -> str:
    with contextlib.suppress(OSError):
        return (layout.logs / f"{name}.log").read_text(errors="replace")[-size:]
    return ""


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the process's start (proc(5), field 22); None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _opened(running: Running) -> int | None:
    try:
        return os.pidfd_open(running.pid)
    except OSError:
        return None


def _signal(running: Running, number: int) -> None:
    if _start_time(running.pid) == running.started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)


def _wait_gone(running: Running, pidfd: int | None, seconds: float) -> bool:
    import select

    deadline = time.monotonic() + seconds
    while _start_time(running.pid) == running.started:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if pidfd is not None:
            select.select([pidfd], [], [], left)
        else:
            time.sleep(POLL_SECONDS)
        # A child of ours stays a zombie until it is asked for.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.pid, os.WNOHANG)
    return True
