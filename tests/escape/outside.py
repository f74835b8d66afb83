"""Where nothing holds the probe: a container with everything taken off, and processes of the host."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

from animus_agent.images.cache import ImageCache
from animus_agent.sandbox import logs
from animus_agent.sandbox.driver import Handle, Limits, Phase, SandboxSpec
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import PLATFORM, World
from tests.escape import image

Told = dict[str, dict[str, Any]]
Tries = list[tuple[str, dict[str, Any]]]
# By their numbers (linux/capability.h).
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
OWN_NETWORK = """
import ctypes, fcntl, os, socket, struct, subprocess, sys
assert ctypes.CDLL(None).unshare(0x40000000) == 0
control = socket.socket()
def address(name, dotted):
    return struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(dotted))
fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up, running
fcntl.ioctl(control, 0x8916, address(b"lo:1", "169.254.169.254"))  # SIOCSIFADDR
listener = socket.create_server(("169.254.169.254", 80))
sys.exit(subprocess.run([sys.executable, "-I", "-S", *sys.argv[1:]]).returncode)
"""


def parse(text: str) -> Told:
    """What the probe said, by case; anything else in the output is the case's own."""
    told = {}
    for line in text.splitlines():
        at = line.find('{"case"')
        if at >= 0:
            one = json.loads(line[at:])
            told[one.pop("case")] = one
    return told


def arguments(tries: Tries) -> list[str]:
    return [str(image.PROBE), json.dumps(tries)]


def on_the_host(control: str, tries: Tries) -> Told:
    """`host`, `netns`, `leak` or `pty`."""
    command = [sys.executable, "-I", "-S", *arguments(tries)]
    more: dict[str, Any] = {"stdin": subprocess.DEVNULL}
    if control == "netns":
        command = [sys.executable, "-c", OWN_NETWORK, *arguments(tries)]
    leaked = os.open("/", os.O_RDONLY)
    leader, follower = pty.openpty()
    try:
        if control == "leak":
            more["pass_fds"] = [leaked]
        if control == "pty":
            # A session of its own, whose terminal is its standard input.
            command, more["stdin"] = ["setsid", "--ctty", "--wait", *command], follower
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, **more)
    finally:
        for fd in (leaked, leader, follower):
            os.close(fd)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


class BareDriver(RuncDriver):
    """Containers of the product's own configuration with every protection taken off again."""

    def prepare(self, spec: SandboxSpec) -> Handle:
        handle = super().prepare(spec)
        path = spec.directory / "bundle" / "config.json"
        config = json.loads(path.read_text())
        _take_off(config)
        path.write_text(json.dumps(config))
        return handle


def held() -> list[str]:
    """The capabilities of this process."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return [name for number, name in enumerate(CAPABILITIES) if int(status["CapEff"], 16) >> number & 1]


def _take_off(config: dict[str, Any]) -> None:
    process, linux = config["process"], config["linux"]
    mine = [f"CAP_{name}" for name in held()]
    process["user"] = {"uid": 0, "gid": 0}
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), mine)
    process["noNewPrivileges"] = False
    config["root"]["readonly"] = False
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "user"]
    for key in ("uidMappings", "gidMappings", "seccomp", "maskedPaths", "readonlyPaths"):
        del linux[key]
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in config["mounts"]:
        mount["options"] = ["rw" if one == "ro" else one for one in mount["options"] if one not in ("nosuid", "nodev")]
        mount["options"] = [one for one in mount["options"] if mount["destination"] != "/dev" or "size=" not in one]


def in_a_bare_container(world: World, driver: BareDriver, tries: Tries) -> Told:
    """All of them in one. Its root is a copy that no step uses."""
    folder = world.root / "bare"
    folder.mkdir(mode=0o711)
    rootfs = ImageCache(folder / "images").get(world.image, PLATFORM, world.blobs).path
    os.chmod(rootfs / image.SETUID.lstrip("/"), 0o6755)
    spec = SandboxSpec(
        id=f"an-bare-{os.getpid()}",
        directory=folder / "container",
        rootfs=rootfs,
        args=(image.PYTHON, "-I", "-S", "/probe.py", json.dumps(tries)),
        env=("PATH=/bin",),
        cwd="/",
        limits=Limits(512 << 20, 1000, open_files=1024, tmp_bytes=256 << 20),
        uid_base=1_000_000,
        backstop_seconds=60,
    )
    spec.directory.mkdir(mode=0o711)
    handle = driver.prepare(spec)
    try:
        driver.start(handle)
        assert driver.status(handle, 30) is Phase.EXITED
        chunks = logs.read(driver.log_path(handle), logs.Cursor(), final=True)
        text = b"".join(chunk.data for chunk in chunks).decode()
        assert driver.collect(handle).exit_code == 0, text
        return parse(text)
    finally:
        driver.destroy(handle)
