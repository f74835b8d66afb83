"""What the node has: cores, memory, GPUs. What it says narrows placement; it never widens what the server allows."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from animus_kit.documents.sandbox import Gpu, HostFingerprint

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# Left to the agent, its conmons and the system.
RESERVED_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class GpuDevice:
    uuid: str
    model: str
    memory_bytes: int
    driver_version: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """`reason`: why there are none, for people."""

    devices: tuple[GpuDevice, ...] = ()
    reason: str = ""


class GpuInventory(Protocol):
    def read(self) -> Gpus:
        """Never raises: a node without a driver has no GPUs."""


class NoGpus:
    def read(self) -> Gpus:
        return Gpus(reason="not looked for")


class NvmlInventory:
    """NVML by its C interface (nvml.h, API version 2). `library` may be replaced by a fake one in tests."""

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        self._library = library

    def read(self) -> Gpus:
        try:
            nvml = ctypes.CDLL(self._library)
        except OSError:
            return Gpus(reason=f"no NVIDIA driver: {self._library} is not installed")
        code = nvml.nvmlInit_v2()
        if code:
            return Gpus(reason=f"NVML does not start: error {code}")
        try:
            return Gpus(tuple(self._devices(nvml)))
        except OSError as error:
            return Gpus(reason=f"NVML fails: {error}")
        finally:
            nvml.nvmlShutdown()

    def _devices(self, nvml: ctypes.CDLL) -> list[GpuDevice]:
        count = ctypes.c_uint()
        _ok(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount")
        driver = _text(lambda buffer, size: nvml.nvmlSystemGetDriverVersion(buffer, size))
        found = []
        for index in range(count.value):
            device = ctypes.c_void_p()
            _ok(nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)), "nvmlDeviceGetHandleByIndex")
            memory = (ctypes.c_ulonglong * 3)()  # total, free, used
            _ok(nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)), "nvmlDeviceGetMemoryInfo")
            uuid = _text(lambda buffer, size, d=device: nvml.nvmlDeviceGetUUID(d, buffer, size))
            model = _text(lambda buffer, size, d=device: nvml.nvmlDeviceGetName(d, buffer, size))
            found.append(GpuDevice(uuid, model, memory[0], driver))
        # By UUID: indexes change with a reboot.
        return sorted(found, key=lambda gpu: gpu.uuid)


@dataclass(frozen=True, slots=True)
class Node:
    """What steps may use together, and where they run."""

    hostname: str
    platform: str
    kernel: str
    cpu_millis: int
    memory_bytes: int
    gpus: Gpus
    cpu_model: str
    cpu_flags: str


def read(gpus: GpuInventory, cpu_millis: int = 0, memory_bytes: int = 0, proc: Path = Path("/proc")) -> Node:
    """`cpu_millis` and `memory_bytes` bound what is offered; 0 means all but a reserve of memory."""
    model, flags = _cpu((proc / "cpuinfo").read_text())
    total = next(
        int(line.split()[1]) << 10
        for line in (proc / "meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    memory = max(total - RESERVED_MEMORY, total // 2)
    return Node(
        hostname=socket.gethostname(),
        platform=f"linux/{MACHINES.get(platform.machine(), platform.machine())}",
        kernel=platform.release(),
        cpu_millis=min(cpu_millis or 1 << 40, len(os.sched_getaffinity(0)) * 1000),
        memory_bytes=min(memory_bytes or 1 << 62, memory),
        gpus=gpus.read(),
        cpu_model=model,
        cpu_flags=flags,
    )


def fingerprint(node: Node, libraries: dict[str, str]) -> HostFingerprint:
    """What of this machine can change bytes although no action says so."""
    return HostFingerprint(
        platform=node.platform,
        kernel=node.kernel[:256],
        cpu_model=node.cpu_model[:256],
        cpu_flags_sha256=hashlib.sha256(node.cpu_flags.encode()).hexdigest(),
        gpus=tuple(Gpu(uuid=g.uuid, model=g.model, driver_version=g.driver_version) for g in node.gpus.devices),
        libraries=libraries,
    )


def _cpu(cpuinfo: str) -> tuple[str, str]:
    model, flags = "unknown", ""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = " ".join(sorted(value.split()))
            break
    return model, flags


def _ok(code: int, what: str) -> None:
    if code:
        raise OSError(f"{what}: error {code}")


def _text(call) -> str:  # type: ignore[no-untyped-def]
    buffer = ctypes.create_string_buffer(256)
    _ok(call(buffer, 256), "NVML text")
    return buffer.value.decode("utf-8", "replace")
