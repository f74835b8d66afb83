"""GPUs for tests: real character devices that most kernels have, under other names, with CDI specifications.

They are devices that a container is not given otherwise, and opening one does nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from animus_agent.gpu.devices import FileInventory
from animus_agent.gpu.pool import GpuPool

KIND = "animus.test/gpu"
# Not tun: runc's own rules let every container use it.
HARMLESS = ("fuse", "loop-control", "btrfs-control", "autofs")


def _found() -> list[tuple[int, int]]:
    """Device numbers of this kernel's (proc(5), /proc/misc: minor and name, all of major 10)."""
    lines = Path("/proc/misc").read_text().splitlines() if Path("/proc/misc").exists() else []
    minors = {name: int(minor) for minor, name in (line.split() for line in lines)}
    return [(10, minors[name]) for name in HARMLESS if name in minors]


# Numbers that no kernel gives stand in where only the names matter.
FIRST, SECOND, CONTROL = (_found() + [(240, 1), (240, 2), (240, 3)])[:3]
NUMBERS = {"0": FIRST, "1": SECOND}
requires_nodes = pytest.mark.skipif(
    len(_found()) < 3, reason=f"needs three of these devices in this kernel: {', '.join(HARMLESS)}"
)


# Of this process alone: agents of one machine never offer one device, and tests run side by side.
_RUN = secrets.token_hex(4)


def uuid(number: str) -> str:
    return f"GPU-{_RUN}-0000-4000-8000-00000000000{number}"


class Rack:
    """A folder with two devices, a list of them, and their specification."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cdi = folder / "cdi"
        self.list = folder / "gpus.json"
        (folder / "dev").mkdir(parents=True, mode=0o755)
        self.cdi.mkdir(mode=0o755)
        for number, (major, minor) in NUMBERS.items():
            self.node(f"test{number}", major, minor)
        self.node("testctl", *CONTROL)
        self.write(self.spec())
        self.listed(dict.fromkeys(NUMBERS, ""))

    def node(self, name: str, major: int, minor: int, mode: int = 0o666) -> Path:
        path = self.folder / "dev" / name
        os.mknod(path, 0o020666, os.makedev(major, minor))
        path.chmod(mode)
        return path

    def spec(self, **edits: Any) -> dict[str, Any]:
        """Each device has a node; all share one, an environment variable and what `edits` add."""
        return {
            "cdiVersion": "0.6.0",
            "kind": KIND,
            "devices": [
                {"name": number, "containerEdits": {"deviceNodes": [self._node(f"test{number}")]}} for number in NUMBERS
            ],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void", "TEST_DRIVER=1"],
                "deviceNodes": [self._node("testctl")],
                **edits,
            },
        }

    def _node(self, name: str) -> dict[str, Any]:
        return {"path": f"/dev/{name}", "hostPath": str(self.folder / "dev" / name)}

    def write(self, spec: Any, name: str = "test.json") -> Path:
        path = self.cdi / name
        path.write_text(spec if isinstance(spec, str) else json.dumps(spec))
        path.chmod(0o644)
        return path

    def listed(self, trouble: dict[str, str]) -> None:
        """The devices that the list names, with their troubles."""
        rows = [
            {
                "uuid": uuid(number),
                "model": f"Example X{number}00",
                "memoryBytes": 1 << 30,
                "driverVersion": "1.2.3",
                "cudaVersion": "13.0",
                "cdi": f"{KIND}={number}",
                "trouble": why,
            }
            for number, why in trouble.items()
        ]
        self.list.write_text(json.dumps(rows))
        self.list.chmod(0o644)

    def pool(self, **changes: Any) -> GpuPool:
        pool = GpuPool(FileInventory(self.list), [self.cdi], locks=self.folder / "locks", **changes)
        pool.refresh()
        return pool
