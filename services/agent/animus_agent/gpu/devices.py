"""What a GPU is to the agent, and where the list comes from: NVML, a file, or nowhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from animus_agent.errors import GpuUnavailable
from animus_agent.gpu.rooted import read_rooted
from animus_kit.documents.contract import GPU_UUID

_UUID = re.compile(f"(?=.{{1,128}}$){GPU_UUID}", re.ASCII)


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """`minor`: of its own device node, /dev/nvidia<minor>. `cdi`: its qualified CDI name, where the list says so.

    `trouble`: why it must not be used now, empty when it may.
    """

    uuid: str
    model: str
    memory_bytes: int
    driver_version: str
    cuda_version: str = ""
    minor: int | None = None
    cdi: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """`reason`: why there are none, for people. `left_out`: UUID → why it is not offered."""

    devices: tuple[GpuDevice, ...] = ()
    reason: str = ""
    left_out: dict[str, str] = field(default_factory=dict)


class GpuInventory(Protocol):
    def read(self) -> Gpus:
        """All devices as they are now, sick ones with their trouble. Never raises: a node without a driver has none."""

    def close(self) -> None: ...


class NoGpus:
    """A node that offers none."""

    def read(self) -> Gpus:
        return Gpus(reason="not looked for")

    def close(self) -> None:
        pass


class FileInventory:
    """Devices that an operator lists: those that NVML does not know, and those of tests.

        [{"uuid": "GPU-1", "model": "Example 1", "memoryBytes": 1073741824, "driverVersion": "1.0",
          "cdi": "example.com/gpu=0", "trouble": ""}]

    The file must be root's alone to write, like the CDI specifications. It is read again at each `read`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Gpus:
        try:
            listed = json.loads(read_rooted(self._path))
            devices = [_listed(one) for one in listed]
            if len({one.uuid for one in devices}) != len(devices):
                raise ValueError("a UUID stands twice")
        except (OSError, ValueError, TypeError, KeyError, GpuUnavailable) as error:
            return Gpus(reason=f"{self._path}: {type(error).__name__}: {error}"[:1000])
        return Gpus(tuple(sorted(devices, key=lambda gpu: gpu.uuid)))

    def close(self) -> None:
        pass


def _listed(one: dict) -> GpuDevice:
    known = {"uuid", "model", "memoryBytes", "driverVersion", "cudaVersion", "cdi", "trouble"}
    if unknown := one.keys() - known:
        raise ValueError(f"no such field: {min(unknown)}")
    device = GpuDevice(
        uuid=one["uuid"],
        model=one["model"],
        memory_bytes=int(one["memoryBytes"]),
        driver_version=one["driverVersion"],
        cuda_version=one.get("cudaVersion", ""),
        cdi=one["cdi"],
        trouble=one.get("trouble", ""),
    )
    if not is_uuid(device.uuid) or not device.model:
        raise ValueError("a device has a UUID and a model")
    return device


def is_uuid(text: str) -> bool:
    """Whether a contract could name it."""
    return _UUID.fullmatch(text) is not None
