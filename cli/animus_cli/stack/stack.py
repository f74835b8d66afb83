"""Up, down, status, restart. Each may be repeated, and interrupted anywhere: up starts what is missing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from animus_cli.stack import database, issuer, keys, options, processes, programs
from animus_cli.stack.layout import AGENT, Layout
from animus_cli.stack.options import Options
from animus_cli.stack.processes import Program
from animus_kit.db.embedded import Embedded, account

READY_SECONDS = 60.0
# The server's default lifetime of a join token.
TOKEN_SECONDS = 15 * 60
Tell = Callable[[str], None]


class StackError(Exception):
    """The stack cannot do what was asked. The message says why and what to do."""


@dataclass(frozen=True)
class State:
    """One process as `status` shows it. health: ready, starting, or stopped."""

    name: str
    pid: int | None
    health: str
    ports: dict[str, int]


def up(layout: Layout, tell: Tell, *, agent: bool = True, chosen: Options | None = None) -> None:
    """Starts everything that does not run and returns when all of it answers.

    tell: called with a line for each stage. chosen: options for this and every later start; None keeps what was chosen
    before. What runs already keeps what it was started with. Raises StackError, EmbeddedError.
    """
    with _locked(layout):
        if chosen is not None:
            options.save(layout.options_file, chosen)
        who = account()
        _folders(layout, who)
        keys.make(layout, datetime.now(UTC))
        if who is not None:
            keys.hand_over(layout, who.pw_uid, who.pw_gid)
        if _postgres_state(layout).pid is None:
            tell("starting PostgreSQL")
        cluster = database.start(layout)
        database.prepare(layout, cluster)
        programs.write_gateway_settings(layout)
        every = programs.control_plane(layout, cluster)
        missing = [name for name in every if processes.find(layout, name) is None]
        if missing:
            tell("starting " + ", ".join(missing))
        _start_all(layout, list(every.values()), who)
        _write_client(layout)
        if agent:
            if processes.find(layout, "agent") is None:
                tell("starting the agent")
            _start_agent(layout, who)


def down(layout: Layout, tell: Tell) -> None:
    """Ends everything, what the agent's containers left included. Nothing happens where nothing runs."""
    if not layout.root.is_dir():
        return
    with _locked(layout):
        if processes.find(layout, "agent") or layout.agent.is_dir():
            tell("stopping the agent")
            processes.stop(layout, "agent")
            _purge_agent(layout)
            shutil.rmtree(layout.agent_run, ignore_errors=True)
        order = ("gateway", "dispatch", "orchestrator", "lineage", "catalog", "policy", "audit")
        tell("stopping services")
        with ThreadPoolExecutor(len(order)) as pool:
            list(pool.map(lambda name: processes.stop(layout, name), order))
        tell("stopping PostgreSQL")
        Embedded(layout.postgres).stop()


def restart(layout: Layout, name: str, *, kill: bool = False, wait: bool = True) -> None:
    """Ends one process, with SIGKILL when asked, and starts it again; `postgres` too.

    wait: return only when it answers, which the gateway does when every service behind it does. Raises StackError for an unknown name, EmbeddedError.
    """
    with _locked(layout):
        if name == programs.POSTGRES:
            cluster = Embedded(layout.postgres)
            cluster.kill() if kill else cluster.stop()
            cluster.start()
            return
        program = _program(layout, name)
        processes.stop(layout, name, kill=kill)
        processes.start(layout, program, account())
        if wait:
            _wait(layout, program)


def status(layout: Layout) -> list[State]:
    """Every process of the stack, alive or not."""
    states = [_postgres_state(layout)]
    every = _programs(layout)
    for name in programs.ALL:
        found = processes.find(layout, name)
        program = every.get(name)
        health = "stopped" if found is None else "ready" if program and program.probe() else "starting"
        ports = {port: layout.ports[port] for port in (program.ports if program else ())}
        states.append(State(name, found.pid if found else None, health, ports))
    return states


def is_up(layout: Layout) -> bool:
    """Whether anything of it runs."""
    return any(processes.find(layout, name) for name in programs.ALL)


def _start_all(layout: Layout, wanted: list[Program], who: pwd.struct_passwd | None) -> None:
    """All at once: each takes a second of imports, and none needs another to start."""
    for program in wanted:
        if processes.find(layout, program.name) is None:
            processes.start(layout, program, who)
    with ThreadPoolExecutor(len(wanted)) as pool:
        for done in [pool.submit(_wait, layout, program) for program in wanted]:
            done.result()


def _wait(layout: Layout, program: Program) -> None:
    try:
        processes.wait_ready(layout, program, time.monotonic() + READY_SECONDS)
    except (processes.ProcessDied, TimeoutError) as error:
        raise StackError(f"{error}\nthe whole log: {layout.logs / program.name}.log") from error


def _start_agent(layout: Layout, who: pwd.struct_passwd | None) -> None:
    if processes.find(layout, "agent") is None:
        if not (layout.agent / "identity" / "agent.json").exists():
            _enroll(layout)
        processes.start(layout, programs.agent(layout), who)
    _wait(layout, programs.agent(layout))


def _enroll(layout: Layout) -> None:
    """A real join token over the real enrolment: there is no second way in."""
    path = programs.token_file(layout)
    # While a token is good no other is given out for the same name: one that was not used yet is tried again.
    if not path.exists() or time.time() - path.stat().st_mtime > TOKEN_SECONDS:
        answer = programs.call(layout, "POST", "/orchestrator/v1/joinTokens", {"agentId": AGENT})
        path.touch(mode=0o600)
        path.write_text(str(answer["token"]))
    program = programs.agent(layout)
    done = subprocess.run(
        [sys.executable, "-m", "animus_agent", "enroll", "--token-file", str(path), layout.address("enrollment")],
        env={"PATH": os.environ["PATH"], **program.environment},
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
    )
    if done.returncode != 0:
        raise StackError(f"the agent could not enrol:\n{(done.stderr or done.stdout).strip()}")
    path.unlink(missing_ok=True)


def _purge_agent(layout: Layout) -> None:
    """Containers outlive their agent on purpose; with the stack they end, and so do their mounts and cgroups."""
    done = subprocess.run(
        [sys.executable, "-m", "animus_agent", "purge"],
        env={"PATH": os.environ["PATH"], **programs.agent(layout).environment},
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
    )
    if done.returncode != 0:
        raise StackError(f"the agent's containers could not be removed:\n{done.stderr.strip()}")


def _programs(layout: Layout) -> dict[str, Program]:
    every = programs.control_plane(layout, Embedded(layout.postgres))
    return {**every, "agent": programs.agent(layout)}


def _program(layout: Layout, name: str) -> Program:
    every = _programs(layout)
    if name not in every:
        raise StackError(f"no such process: {name}; there are {', '.join((programs.POSTGRES, *every))}")
    return every[name]


def _postgres_state(layout: Layout) -> State:
    cluster = Embedded(layout.postgres)
    alive = cluster.data.exists() and cluster.is_running()
    return State(programs.POSTGRES, cluster.pid if alive else None, "ready" if alive else "stopped", {})


def _folders(layout: Layout, who: pwd.struct_passwd | None) -> None:
    """Each service may write its own folder and nothing else; the agent's stays root's."""
    keys.missing_folder(layout.root)
    keys.missing_folder(layout.run)
    keys.missing_folder(layout.logs, 0o755)
    keys.missing_folder(layout.agent, 0o711)
    for name in ("blobs", "staging", "gateway"):
        folder = keys.missing_folder(layout.folder(name), 0o700)
        if who is not None:
            os.chown(folder, who.pw_uid, who.pw_gid)


def _write_client(layout: Layout) -> None:
    """What the CLI reads when nothing else was configured."""
    client = {
        "endpoint": layout.endpoint,
        "ca": str(layout.services_ca),
        "stack": str(layout.root),
        "subject": issuer.OPERATOR,
        "groups": [issuer.ADMINISTRATORS],
    }
    layout.client.write_text(json.dumps(client, indent=2) + "\n")


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One up or down at a time on one folder."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with (layout.root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another animus up or down works on {layout.root}") from None
        yield
