"""cgroup v1 (also hybrid) and v2: where our containers' groups lie, and what they counted.

Counters vanish with the group, and the runtime removes the group on delete: read first. Never infer an out-of-memory
kill from an exit code; the kernel counts them (v1 `memory.oom_control`, v2 `memory.events` `oom_kill`, also when a
child was killed and the first process lived on).
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from animus_agent.errors import SandboxUnavailable
from animus_agent.sandbox.driver import Usage

CONTROLLERS_V1 = ("memory", "pids", "cpu", "devices")
CONTROLLERS_V2 = ("memory", "pids", "cpu")
FREEZE_SECONDS = 2.0
KILL_FREEZE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version` 1 or 2; `parent` is the path, as runc's cgroupsPath takes it, under which our groups are made."""

    root: Path
    version: int
    parent: str

    def path(self, container: str) -> str:
        return f"{self.parent.rstrip('/')}/{container}"

    def usage(self, container: str) -> Usage:
        """The counters of a container's group; a field that cannot be read is None."""
        relative = self.path(container).lstrip("/")
        if self.version == 2:
            group = self.root / relative
            return Usage(
                oom_kills=_keyed(group / "memory.events", "oom_kill"),
                memory_peak_bytes=_number(group / "memory.peak"),
                pids_limit_hits=_keyed(group / "pids.events", "max"),
                cpu_nanoseconds=_times(_keyed(group / "cpu.stat", "usage_usec"), 1000),
                throttled_periods=_keyed(group / "cpu.stat", "nr_throttled"),
            )
        memory = self.root / "memory" / relative
        return Usage(
            oom_kills=_keyed(memory / "memory.oom_control", "oom_kill"),
            memory_peak_bytes=_number(memory / "memory.max_usage_in_bytes"),
            pids_limit_hits=_keyed(self.root / "pids" / relative / "pids.events", "max"),
            cpu_nanoseconds=_number(self.root / "cpuacct" / relative / "cpuacct.usage"),
            throttled_periods=_keyed(self.root / "cpu" / relative / "cpu.stat", "nr_throttled"),
        )

    def processes(self, container: str) -> list[int]:
        """Every process in a container's group, as the host numbers them."""
        found: list[int] = []
        for folder, _, _ in os.walk(self._of_processes(container)):
            found += [int(pid) for pid in _text(Path(folder, "cgroup.procs")).split()]
        return found

    def freeze(self, container: str, frozen: bool = True, wait_seconds: float = FREEZE_SECONDS) -> bool:
        """Stops every process of a container where it is, or lets them go on; whether the kernel did it."""
        relative = self.path(container).lstrip("/")
        if self.version == 2:
            switch, state = self.root / relative / "cgroup.freeze", self.root / relative / "cgroup.events"
            value, reached = ("1", "frozen 1") if frozen else ("0", "frozen 0")
        else:
            switch = state = self.root / "freezer" / relative / "freezer.state"
            value = reached = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + wait_seconds
        for turn in itertools.count(1):
            try:
                if self.version == 1 and frozen and turn % 10 == 0:
                    # v1 gets stuck half-way on a process in the middle of a fork or an exec: let it finish that
                    # (runc does the same, libcontainer/cgroups/fs/freezer.go).
                    switch.write_text("THAWED")
                    time.sleep(0.005)
                switch.write_text(value)
            except OSError:
                return False
            if reached in _text(state):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return False

    def frozen(self, container: str) -> bool:
        relative = self.path(container).lstrip("/")
        if self.version == 2:
            return "frozen 1" in _text(self.root / relative / "cgroup.events")
        return _text(self.root / "freezer" / relative / "freezer.state").strip() in ("FROZEN", "FREEZING")

    def kill(self, container: str) -> bool:
        """SIGKILL to every process of a container, those being born too; whether none was left.

        On v1 the group is frozen first, so that a fork bomb cannot outrun us. A process needs the cpu to die, and a
        thousand of them under a tenth of one take minutes: its limit ends with the container.
        """
        relative = self.path(container).lstrip("/")
        if self.version == 2:
            with suppress(OSError):
                (self.root / relative / "cpu.max").write_text("max")
            with suppress(OSError):
                (self.root / relative / "cgroup.kill").write_text("1")
        else:
            with suppress(OSError):
                (self.root / "cpu" / relative / "cpu.cfs_quota_us").write_text("-1")
            # A process that is already dying cannot be frozen; nobody needs to wait for it.
            self.freeze(container, wait_seconds=KILL_FREEZE_SECONDS)
        # Kernels before 5.14 have no cgroup.kill; where it worked nothing is left to signal.
        for pid in self.processes(container):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Killed while frozen they die only once they may go on; they run none of their own code first.
        self.freeze(container, False, KILL_FREEZE_SECONDS)
        return not self.processes(container)

    def _of_processes(self, container: str) -> Path:
        relative = self.path(container).lstrip("/")
        if self.version == 2:
            return self.root / relative
        freezer = self.root / "freezer" / relative
        return freezer if freezer.is_dir() else self.root / "pids" / relative

    def resources(self) -> dict:
        """OCI resources that only one version knows."""
        # One process of a step killed for memory leaves a half-working step: on v2 the kernel can take all of it.
        return {"unified": {"memory.oom.group": "1"}} if self.version == 2 else {}

    def orphans(self) -> set[str]:
        """Names of groups under our parent."""
        roots = [self.root] if self.version == 2 else [self.root / name for name in CONTROLLERS_V1]
        found: set[str] = set()
        for root in roots:
            parent = root / self.parent.strip("/")
            if parent.is_dir():
                found |= {entry.name for entry in parent.iterdir() if entry.is_dir() and entry.name.startswith("an-")}
        return found

    def close(self) -> None:
        """Removes the parent group itself, if nothing is left in it."""
        self._remove(self.parent.strip("/"))

    def remove(self, container: str) -> None:
        """Removes empty groups that a runtime left; one with processes in it is left alone."""
        self._remove(self.path(container).lstrip("/"))

    def _remove(self, relative: str) -> None:
        roots = [self.root] if self.version == 2 else [p for p in self.root.iterdir() if p.is_dir()]
        for root in roots:
            try:
                (root / relative).rmdir()
            except OSError:
                continue


def detect(
    parent: str = "", name: str = "agent", root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")
) -> Cgroups:
    """Finds the version and makes sure that limits can be set.

    `parent` empty: on v1 `/animus/<name>`; on v2 below the agent's own group, which the service manager delegated. Two
    agents on one machine need two names: whatever else lies under the parent is taken for an orphan.
    Raises SandboxUnavailable.
    """
    if (root / "cgroup.controllers").exists():
        own = _own_group_v2(proc)
        chosen = parent or f"{own.rstrip('/')}/animus-{name}"
        _delegate_v2(root, own, chosen)
        return Cgroups(root, 2, chosen)
    missing = [name for name in CONTROLLERS_V1 if not (root / name).is_dir()]
    if missing:
        raise SandboxUnavailable(f"no cgroup controllers: {', '.join(missing)}", "CGROUPS_UNAVAILABLE")
    if not os.access(root / "memory", os.W_OK):
        raise SandboxUnavailable("the memory cgroup is not writable", "CGROUPS_UNAVAILABLE")
    return Cgroups(root, 1, parent or f"/animus/{name}")


def _own_group_v2(proc: Path) -> str:
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        if line.startswith("0::"):
            # After a restart the agent may still be in the leaf that its predecessor made.
            return line[3:].removesuffix("/agent") or "/"
    return "/"


def _delegate_v2(root: Path, own: str, parent: str) -> None:
    """Turns on the controllers down to `parent`.

    A v2 group that hands controllers to children may hold no process itself (the root excepted), so that processes of
    our own group first move into a leaf, `agent`.
    """
    offered = set((root / own.lstrip("/") / "cgroup.controllers").read_text().split())
    missing = [name for name in CONTROLLERS_V2 if name not in offered]
    if missing:
        raise SandboxUnavailable(
            f"cgroup v2 controllers not delegated: {', '.join(missing)} (systemd: Delegate=yes)", "CGROUPS_UNAVAILABLE"
        )
    wanted = " ".join(f"+{name}" for name in CONTROLLERS_V2)
    try:
        group = root
        for part in parent.strip("/").split("/"):
            # The machine's root group has no type; the root that a container sees has one, and the rule holds for it.
            if group == root / own.lstrip("/") and (own != "/" or (group / "cgroup.type").exists()):
                _move_to_leaf(group)
            if not set(CONTROLLERS_V2) <= set(_text(group / "cgroup.subtree_control").split()):
                (group / "cgroup.subtree_control").write_text(wanted)
            group = group / part
            group.mkdir(exist_ok=True)
        if not set(CONTROLLERS_V2) <= set(_text(group / "cgroup.subtree_control").split()):
            (group / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        raise SandboxUnavailable(
            f"cgroup v2 limits cannot be set below {parent}: {error}", "CGROUPS_UNAVAILABLE"
        ) from error


def _move_to_leaf(group: Path) -> None:
    leaf = group / "agent"
    leaf.mkdir(exist_ok=True)
    for pid in _text(group / "cgroup.procs").split():
        (leaf / "cgroup.procs").write_text(pid)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _keyed(path: Path, key: str) -> int | None:
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor
