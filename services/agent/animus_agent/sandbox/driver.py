"""What a sandbox driver must do. `runc` is the reference, `fake` serves tests and load simulation, and a driver for
Kubernetes can join: all pass the same contract test (tests/agent/test_driver_contract.py).

A driver runs a container at most once. Between any two calls the agent may die and another process may go on with
nothing but the handle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path seen in the container. Always nosuid and nodev; its target is made by the image cache."""

    source: Path
    target: str
    writable: bool = False
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A host device node, bound into the container and allowed by the device rules (GPUs, by CDI). With an empty
    `access` it is bound and not allowed: the canaries try that the rules hold."""

    host_path: str
    path: str
    major: int
    minor: int
    access: str = "rw"


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that the runtime runs, as root and on the host, at a moment of the container's life (OCI `hooks`)."""

    moment: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """All in force or the container does not start. Bytes, thousandths of a core, counts."""

    memory_bytes: int
    cpu_millis: int
    pids: int = 1024
    open_files: int = 65536
    tmp_bytes: int = 256 << 20
    shm_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One container, in full: what is not here does not exist inside.

    `id` is unique for ever (made of the attempt's name). `backstop_seconds` ends the container even when no agent is
    alive; the agent's own, earlier timeout is what is reported.
    """

    id: str
    directory: Path
    rootfs: Path
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    limits: Limits
    uid_base: int
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    hooks: tuple[Hook, ...] = ()
    backstop_seconds: int = 0
    log_bytes: int = 0
    """What the log's file may take; 0 is no bound."""
    aslr: bool = True
    uid: int = 65532


HANDLE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Handle:
    """All that another process needs to go on with a container. Holds no pid: pids are looked up and checked."""

    driver: str
    id: str
    directory: str
    boot_id: str
    data: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"version": HANDLE_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Handle:
        """Raises ValueError for a handle of another version."""
        fields = json.loads(text)
        if fields.pop("version", None) != HANDLE_VERSION:
            raise ValueError("a sandbox handle of an unknown version")
        return cls(**fields)


class Phase(StrEnum):
    """PREPARED: not started, and may be. STARTING: the runtime was asked, and nothing ran yet. LOST: it was started
    and nobody can tell how it ended; it never starts again."""

    PREPARED = "PREPARED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    LOST = "LOST"


TERMINAL = frozenset({Phase.EXITED, Phase.LOST})


@dataclass(frozen=True, slots=True)
class Usage:
    """The kernel's counters, read while the container's cgroup still exists. None: this kernel does not tell."""

    oom_kills: int | None = None
    memory_peak_bytes: int | None = None
    pids_limit_hits: int | None = None
    cpu_nanoseconds: int | None = None
    throttled_periods: int | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """How a container ended. `exit_code` is 128 + signal for a killed process, None when nobody saw the end.
    `backstop`: ended by the driver's own time limit, since no agent did it earlier."""

    phase: Phase
    exit_code: int | None
    usage: Usage
    backstop: bool = False


class Driver(Protocol):
    """Every method may be repeated."""

    name: str

    def prepare(self, spec: SandboxSpec) -> Handle:
        """Writes all that `start` needs; runs nothing."""

    def start(self, handle: Handle, created: Callable[[], None] | None = None) -> None:
        """Starts the container. Raises StartFailed, CommandNotRunnable; never starts a second one for a handle.

        `created` is called when the container's namespaces exist and nothing of the step has run; what it raises
        keeps the step from running."""

    def status(self, handle: Handle, wait_seconds: float = 0.0) -> Phase:
        """Where it stands; with `wait_seconds` returns as soon as it has ended, at the latest then."""

    def signal(self, handle: Handle, signal: int) -> None:
        """To every process in the container; one that has ended is fine."""

    def terminate(self, handle: Handle) -> bool:
        """Asks the container to end (SIGTERM); False when no process in it listens, so that there is nobody to wait
        for."""

    def end(self, handle: Handle, wait_seconds: float = 0.0) -> bool:
        """Kills every process of a container, and whatever is still about to create it; whether, after at most so
        long, nothing of it can run any more. To be repeated until it is so."""

    def pause(self, handle: Handle, paused: bool) -> bool:
        """Stops every process of a container where it is, or lets them go on; whether that could be done."""

    def paused(self, handle: Handle) -> bool: ...

    def collect(self, handle: Handle) -> Collected:
        """Exit code and counters of an ended container; before `destroy`."""

    def destroy(self, handle: Handle) -> None:
        """Kills what is left and removes every trace outside `spec.directory`."""

    def recover(self, handle: Handle) -> Phase:
        """Takes a container over from a process that died. LOST when it cannot be watched any more; `end` kills it."""

    def resume_start(self, handle: Handle) -> None:
        """Starts one that is STARTING: created by a process that died before it could start it."""

    def network(self, handle: Handle) -> int:
        """A new descriptor of the network namespace of a container that exists. Raises SandboxUnavailable."""

    def ids(self) -> set[str]:
        """The containers that exist, to find orphans."""

    def remove(self, container: str) -> None:
        """Kills and removes a container by its id alone, as orphans are found."""

    def close(self) -> None:
        """Removes what the driver itself left on the machine, once its containers are gone."""

    def versions(self) -> dict[str, str]:
        """What is installed: name → version, for reports."""

    def log_path(self, handle: Handle) -> Path:
        """The container's output, in the k8s-file format (sandbox/logs.py)."""
