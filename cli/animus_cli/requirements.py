"""What a machine needs to run steps, one line for each thing that it lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAMS = {
    "runc": "runc",
    "conmon": "conmon",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "mount": "mount",
}


def missing() -> list[str]:
    """Empty when steps can run here."""
    lines = []
    if os.geteuid() != 0:
        lines.append("missing: root (the agent makes cgroups and mounts; every other process gives it up)")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lines += [
        f"missing: {program} (apt-get install {package})"
        for program, package in PROGRAMS.items()
        if shutil.which(program, path=path) is None
    ]
    if not Path("/sys/fs/cgroup").is_dir() or not any(Path("/sys/fs/cgroup").iterdir()):
        lines.append("missing: control groups (mount /sys/fs/cgroup)")
    if not Path("/proc/self/ns/user").exists():
        lines.append("missing: /proc (mount it)")
    if not Path("/dev/loop-control").exists():
        lines.append("missing: loop devices (/dev/loop-control)")
    return lines
