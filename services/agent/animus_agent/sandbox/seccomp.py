"""Our own list of system calls (seccomp.json): data with a version; its digest is part of every sandbox report."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from animus_agent.errors import SandboxUnavailable

_MACHINES = {"SCMP_ARCH_X86_64": "x86_64"}


@dataclass(frozen=True, slots=True)
class Seccomp:
    name: str
    version: str
    digest: str
    profile: dict


@cache
def load() -> Seccomp:
    """Raises SandboxUnavailable on a machine that the list was not made for: numbers differ between architectures."""
    data = files("animus_agent.sandbox").joinpath("seccomp.json").read_bytes()
    document = json.loads(data)
    if _MACHINES.get(document["architecture"]) != platform.machine():
        raise SandboxUnavailable(f"no system call list for {platform.machine()}", "SECCOMP_ARCHITECTURE")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Seccomp(document["name"], document["version"], digest, document["profile"])
