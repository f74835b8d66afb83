"""What isolation this node really gives: real containers at start that try to get out.

The canaries run the host's own Python, bound read-only, under the very configuration that steps get. A feature whose
canary failed is not offered, and a contract that requires it is never placed here; nothing is weakened in silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from animus_agent.egress.gateway import Gateway
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import AgentError
from animus_agent.files import remove_tree
from animus_agent.sandbox import logs
from animus_agent.sandbox.driver import Device, Driver, Handle, Limits, Mount, Phase, SandboxSpec, Usage
from animus_agent.sandbox.oci import MOUNT_POINTS
from animus_agent.sandbox.quota import QuotaPool
from animus_kit.clock import SystemClock
from animus_kit.documents.action import EGRESS_PORT
from animus_kit.documents.sandbox import Feature

MEMORY_BYTES = 64 << 20
QUOTA_BYTES = 8 << 20
SECONDS = 30.0
EGRESS_OFF = "ANIMUS_AGENT_EGRESS_ALLOW is not set"
# What a step of any kind needs; without one of them the node takes no work at all.
ESSENTIAL = frozenset(
    {
        "memory-limit",
        "network-none",
        "no-capabilities",
        "no-new-privileges",
        "seccomp",
        "user-namespace",
        "vsock-blocked",
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    text: str
    usage: Usage
    exit_code: int | None


# Each prints [held, detail].
_ASLR = """
import json, os
def maps():
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1)
        os.execv("/proc/self/exe", ["python", "-I", "-S", "-c", "print(open('/proc/self/maps').read())"])
    os.close(write)
    lines = open(read).read().splitlines()
    return [line.split()[0] for line in lines if line.endswith(("[stack]", "[heap]"))]
first, second = maps(), maps()
print(json.dumps([bool(first) and first == second, f"{first} {second}"]))
"""
_EGRESS = """
import json, socket, sys
def ask(target):
    with socket.create_connection(("127.0.0.1", PROXY), 5) as client:
        client.sendall(f"CONNECT {target} HTTP/1.1\\r\\n\\r\\n".encode())
        data = b""
        while piece := client.recv(4096):
            data += piece
    return data.decode()
def direct(*target):
    try:
        socket.create_connection(target, 5).close()
        return "connected"
    except OSError as error:
        return error.strerror
told = [ask("127.0.0.1:PORT"), ask("127.0.0.1:1"), direct("127.0.0.1", PORT), direct("192.0.2.1", 9)]
held = "200 " in told[0] and "canary" in told[0] and told[1].startswith("HTTP/1.1 403") and "connected" not in told
print(json.dumps([held, repr(told)]))
"""


def examine(driver: Driver, quota: QuotaPool, directory: Path, egress: Ceiling = Ceiling()) -> tuple[Feature, ...]:
    """Runs the canaries and returns what they showed, sorted by name. A driver that runs nothing gets the fake's."""
    if driver.name == "fake":
        return tuple(Feature(name=name, enforced=True, detail="fake driver") for name in sorted(ESSENTIAL))
    found: dict[str, tuple[bool, str]] = {}
    remove_tree(directory)
    directory.mkdir(parents=True, mode=0o711)
    try:
        outcome = run(driver, quota, directory / "probe", "probe", "exec(open('/animus/probe.py').read())", 1000)
        try:
            found |= {name: (bool(held), str(detail)) for name, (held, detail) in json.loads(outcome.text).items()}
        except (ValueError, TypeError) as error:
            raise AgentError(f"the canary said nothing usable: {outcome.text[-500:]!r}", "CANARY_FAILED") from error
        # To start an interpreter with a tenth of a core takes many periods, however busy the machine is.
        throttled = run(driver, quota, directory / "cpu", "cpu", "pass", 100).usage.throttled_periods
        found["cpu-limit"] = (bool(throttled), f"{throttled} periods throttled")
        outcome = run(driver, quota, directory / "memory", "memory", "x = bytearray(1 << 29)\nprint('survived')", 1000)
        kills = outcome.usage.oom_kills
        found["memory-limit"] = (outcome.exit_code == 137, f"exit {outcome.exit_code} {outcome.text[-100:]}".strip())
        found["oom-counter"] = (bool(kills), f"{kills} kills counted")
        found["no-aslr"] = said(lambda: run(driver, quota, directory / "aslr", "aslr", _ASLR, 1000, aslr=False))
        if egress:
            found["network-allow-list"] = said(lambda: _egress(driver, quota, directory / "egress"))
        else:
            found["network-allow-list"] = (False, EGRESS_OFF)
    except (AgentError, OSError) as error:
        for name in ESSENTIAL - found.keys():
            found[name] = (False, f"{type(error).__name__}: {error}")
    finally:
        remove_tree(directory)
    return tuple(
        Feature(name=name, enforced=held, detail=detail[:4000]) for name, (held, detail) in sorted(found.items())
    )


def unusable(features: tuple[Feature, ...]) -> list[str]:
    """Why this node can take no work; [] when it can."""
    held = {feature.name: feature for feature in features}
    return [
        f"{name}: {held[name].detail if name in held else 'not examined'}"
        for name in sorted(ESSENTIAL)
        if name not in held or not held[name].enforced
    ]


def said(canary: Callable[[], Outcome]) -> tuple[bool, str]:
    """What a canary for one feature that not every step needs printed. One that fails costs that feature alone."""
    try:
        outcome = canary()
    except (AgentError, OSError) as error:
        return False, f"{type(error).__name__}: {error}"
    try:
        held, detail = json.loads(outcome.text)
    except (ValueError, TypeError):
        return False, f"the canary said nothing usable: {outcome.text[-500:]!r}"
    return bool(held), str(detail)


def _egress(driver: Driver, quota: QuotaPool, directory: Path) -> Outcome:
    """A container that may reach one listener of ours, by the proxy, and nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as far:
        port = far.getsockname()[1]

        def greet() -> None:
            with contextlib.suppress(OSError):
                far.settimeout(SECONDS)
                connection, _ = far.accept()
                with connection:
                    connection.sendall(b"canary")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        allowed = f"127.0.0.1:{port}"
        gateway = Gateway((allowed,), Ceiling.parse([allowed]), directory / "egress.json", SystemClock())
        code = _EGRESS.replace("PORT", str(port)).replace("PROXY", str(EGRESS_PORT))
        try:
            return run(driver, quota, directory, "egress", code, 1000, gateway=gateway)
        finally:
            gateway.close()


def _open(gateway: Gateway, driver: Driver, handle: Handle) -> None:
    namespace = driver.network(handle)
    try:
        gateway.open(namespace)
    finally:
        os.close(namespace)


def run(
    driver: Driver,
    quota: QuotaPool,
    directory: Path,
    name: str,
    code: str,
    cpu_millis: int,
    *,
    aslr: bool = True,
    gateway: Gateway | None = None,
    devices: tuple[Device, ...] = (),
) -> Outcome:
    """Runs `code` in a container of the configuration that steps get."""
    directory.mkdir(mode=0o711)
    rootfs = directory / "rootfs"
    mounts = _host_python(rootfs)
    volume_name, volume = quota.take(QUOTA_BYTES)
    work = volume.path / "animus"
    (work / "outputs" / "canary").mkdir(parents=True)
    uid_base = 1_000_000 - 65536
    os.chown(work / "outputs" / "canary", uid_base + 65532, uid_base + 65532)
    (work / "probe.py").write_bytes(files("animus_agent.sandbox").joinpath("probe.py").read_bytes())
    spec = SandboxSpec(
        id=f"an-canary-{name}-{os.getpid()}",
        directory=directory / "container",
        rootfs=rootfs,
        args=(os.path.realpath(sys.executable), "-I", "-S", "-c", code),
        env=("PROBE=1", "HOME=/tmp"),
        cwd="/",
        limits=Limits(MEMORY_BYTES, cpu_millis, pids=32, open_files=1024, tmp_bytes=4 << 20, shm_bytes=1 << 20),
        uid_base=uid_base,
        mounts=(*mounts, Mount(work, "/animus", writable=True)),
        devices=devices,
        backstop_seconds=int(SECONDS) + 30,
        aslr=aslr,
    )
    spec.directory.mkdir(mode=0o711)
    handle = driver.prepare(spec)
    try:
        driver.start(handle, (lambda: _open(gateway, driver, handle)) if gateway else None)
        if driver.status(handle, SECONDS) is not Phase.EXITED:
            raise AgentError(f"canary {name} did not end", "CANARY_FAILED")
        collected = driver.collect(handle)
        chunks = logs.read(driver.log_path(handle), logs.Cursor(), final=True)
        text = b"".join(chunk.data for chunk in chunks).decode("utf-8", "replace")
        return Outcome(text, collected.usage, collected.exit_code)
    finally:
        driver.destroy(handle)
        quota.give_back(volume_name)


def _host_python(rootfs: Path) -> list[Mount]:
    """A root that holds the interpreter this agent runs on, and what it loads. For canaries alone: it has no digest."""
    for point in MOUNT_POINTS:
        (rootfs / point).mkdir(parents=True)
    os.chmod(rootfs / "tmp", 0o1777)
    mounts = []
    wanted = {Path("/usr"), Path(os.path.realpath(sys.base_prefix)), Path(sysconfig.get_path("stdlib")).resolve()}
    for path in sorted(wanted):
        if any(path != other and path.is_relative_to(other) for other in wanted):
            continue
        (rootfs / path.relative_to("/")).mkdir(parents=True)
        mounts.append(Mount(path, str(path), executable=True))
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        link = Path("/", name)
        if link.is_symlink():
            (rootfs / name).symlink_to(os.readlink(link))
        elif link.is_dir():
            (rootfs / name).mkdir()
            mounts.append(Mount(link, f"/{name}", executable=True))
    return mounts
