"""What the node has: cores, memory, GPUs. What it says narrows placement; it never widens what the server allows."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from animus_agent.gpu.devices import Gpus
from animus_kit.documents.sandbox import Gpu, HostFingerprint

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# Left to the agent, its conmons and the system.
RESERVED_MEMORY = 512 << 20


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


def read(gpus: Gpus, cpu_millis: int = 0, memory_bytes: int = 0, proc: Path = Path("/proc")) -> Node:
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
        gpus=gpus,
        cpu_model=model,
        cpu_flags=flags,
    )


def fingerprint(node: Node, libraries: dict[str, str]) -> HostFingerprint:
    """What of this machine can change bytes although no action says so. CUDA is the driver's: the image brings its own."""
    if cuda := sorted({g.cuda_version for g in node.gpus.devices if g.cuda_version}):
        libraries = libraries | {"cuda-driver": ",".join(cuda)}
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
