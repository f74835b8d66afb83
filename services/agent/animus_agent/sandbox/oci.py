"""The OCI runtime configuration of one container (OCI runtime-spec 1.0.2), a pure function of its specification.

Everything here was seen to hold on a machine; the canaries (canary.py) see it again on every node at start.
"""

from __future__ import annotations

from animus_agent.sandbox.cgroup import Cgroups
from animus_agent.sandbox.driver import SandboxSpec
from animus_agent.sandbox.seccomp import Seccomp

HOSTNAME = "animus"
UID_RANGE = 65536
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
# A missing mount point cannot be made by the runtime: with a user namespace the root is not its own. The image cache
# makes these in every root file system.
MOUNT_POINTS = ("proc", "dev", "sys", "tmp", "animus")

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def config(spec: SandboxSpec, cgroups: Cgroups, seccomp: Seccomp) -> dict:
    """The `config.json` for runc."""
    mapping = [{"containerID": 0, "hostID": spec.uid_base, "size": UID_RANGE}]
    limits = spec.limits
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": spec.uid, "gid": spec.uid},
            "args": list(spec.args),
            # Exactly this: the runtime adds nothing of the host's.
            "env": list(spec.env),
            "cwd": spec.cwd,
            "capabilities": {name: [] for name in CAPABILITY_SETS},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": limits.open_files, "soft": limits.open_files},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
            "noNewPrivileges": True,
            "oomScoreAdj": 500,
        },
        "root": {"path": str(spec.rootfs), "readonly": True},
        "hostname": HOSTNAME,
        "mounts": _mounts(spec),
        **({"hooks": _hooks(spec)} if spec.hooks else {}),
        "linux": {
            # A network namespace without a path is a fresh one, with nothing but a loopback that is down.
            "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network", "user", "cgroup")],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": cgroups.path(spec.id),
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    *(
                        {"allow": True, "type": "c", "major": d.major, "minor": d.minor, "access": d.access}
                        for d in spec.devices
                        if d.access
                    ),
                ],
                # Swap as much as memory means none: v1 counts both together, runc translates for v2.
                "memory": {"limit": limits.memory_bytes, "swap": limits.memory_bytes},
                "pids": {"limit": limits.pids},
                "cpu": {
                    "quota": max(limits.cpu_millis * 100, 1000),
                    "period": 100_000,
                    "shares": max(limits.cpu_millis * 1024 // 1000, 2),
                },
                **cgroups.resources(),
            },
            "seccomp": seccomp.profile,
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _mounts(spec: SandboxSpec) -> list[dict]:
    limits = spec.limits
    mounts = [
        _special("/proc", "proc", "nosuid", "noexec", "nodev"),
        _special("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _special("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        _special("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={limits.shm_bytes}"),
        _special("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _special("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _special("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={limits.tmp_bytes}"),
    ]
    for device in spec.devices:
        # With a user namespace a node cannot be made inside, only bound from the host.
        mounts.append(_bind(device.host_path, device.path, "nosuid", "noexec"))
    for mount in spec.mounts:
        options = ["nosuid", "nodev", "rw" if mount.writable else "ro"]
        if not mount.executable:
            options.append("noexec")
        mounts.append(_bind(str(mount.source), mount.target, *options))
    return mounts


def _hooks(spec: SandboxSpec) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for hook in spec.hooks:
        entry: dict = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
        if hook.timeout is not None:
            entry["timeout"] = hook.timeout
        found.setdefault(hook.moment, []).append(entry)
    return found


def _special(target: str, kind: str, *options: str) -> dict:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _bind(source: str, target: str, *options: str) -> dict:
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", *options]}
