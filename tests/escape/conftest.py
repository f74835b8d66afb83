"""One node for all cases: the real driver, the real volumes, what the canaries really found, and a host to break out to."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from animus_agent.attempt import steps
from animus_agent.sandbox import canary, cgroup, quota
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import MemoryBlobs, MemoryReporter, World, put_image
from tests.escape import image
from tests.escape.cases import CASES, Case
from tests.escape.outside import BareDriver, Told, in_a_bare_container, on_the_host

# What a kernel or machine may simply not have; a probe that finds nothing there has nothing to protect.
ABSENT = {"ENOSYS", "EAFNOSUPPORT", "ENODEV", "EOPNOTSUPP", "ENOENT", "EPROTONOSUPPORT"}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="an-escape-"))
    root.chmod(0o711)
    driver = RuncDriver(root / "runc", cgroup.detect(f"/animus-test/{root.name}"))
    pool = quota.QuotaPool(quota.choose(root / "volumes", allow_tmpfs=True))
    pool.start(set())
    blobs = MemoryBlobs()
    features = canary.examine(driver, pool, root / "canary")
    assert canary.unusable(features) == []
    held = tuple(feature.name for feature in features if feature.enforced)
    yield World(root, driver, pool, blobs, image=put_image(blobs, image.build()), features=held)
    pool.close()
    for container in driver.ids():
        driver.remove(container)
    driver.close()
    for mount in (root / "volumes").glob("*"):
        quota.unmount(mount)
    shutil.rmtree(root)


@dataclass(frozen=True)
class Host:
    """What there is to reach outside, by the names that cases use."""

    values: dict[str, Any]
    victim: "subprocess.Popen[bytes]"

    def fill(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self.values[value[1:]] if isinstance(value, str) and value.startswith("@") else value
            for name, value in arguments.items()
        }


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[Host]:
    listener = socket.create_server(("0.0.0.0", 0))
    port = listener.getsockname()[1]
    abstract = socket.socket(socket.AF_UNIX)
    name = f"animus-escape-{uuid.uuid4()}"
    abstract.bind("\0" + name)
    abstract.listen()
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)", "animus-victim"])
    other = world.attempt(
        world.order(image.PYTHON, "-c", "open('/animus/outputs/o/x', 'w').write('theirs')", outputs=("o",))
    )
    steps.execute(other)
    assert other.failure is None and other.volume is not None
    secret = world.root / "identity.key"
    secret.write_text("the agent's")
    disk = next(iter(Path("/sys/class/block").glob("*/dev")), None)
    major, minor = disk.read_text().split(":") if disk else ("7", "0")
    values = {
        "listener": [("127.0.0.1", port), *((address, port) for address in _addresses())],
        "abstract": name,
        "victims": [victim.pid],
        "foreign": [str(secret), str(other.directory.path / "attempt.json"), f"{other.volume.path}/animus/outputs/o/x"],
        "secret": str(secret),
        "major": int(major),
        "minor": int(minor),
    }
    yield Host(values, victim)
    steps.clean_up(other)
    victim.kill()
    victim.wait()
    listener.close()
    abstract.close()


def _addresses() -> list[str]:
    """The host's own, without asking anybody: what a route to a test network would come from."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))
        return [probe.getsockname()[0]]
    except OSError:
        return []
    finally:
        probe.close()


@pytest.fixture(scope="module")
def bare(world: World, host: Host) -> Iterator[Told]:
    """All cases whose control is a bare container."""
    driver = BareDriver(world.root / "runc-bare", cgroup.detect(f"/animus-test/{world.root.name}-bare"))
    tries = [(case.probe or case.name, host.fill(case.arguments)) for case in CASES if case.control == "bare"]
    # The one that does not come back.
    tries.sort(key=lambda one: one[0] == "overwrite-runtime")
    yield in_a_bare_container(world, driver, tries)
    driver.close()


class Runner:
    """Runs a case's probe as a step of an attempt, from contract to report."""

    def __init__(self, world: World, host: Host) -> None:
        self.world, self.host = world, host

    def run(self, case: Case, *, room: bool = False) -> MemoryReporter:
        import json

        arguments = self.host.fill(case.arguments | (case.room_arguments if room else {}))
        command = [image.PYTHON, "-I", "-S", "/probe.py", json.dumps([(case.probe or case.name, arguments)])]
        command += ["exit"] if case.exits else []
        changes = {**case.changes, **(case.room if room else {})}
        reporter = MemoryReporter()
        attempt = self.world.attempt(self.world.order(*command, **changes), reporter)
        steps.execute(attempt)
        steps.clean_up(attempt)
        return reporter


@pytest.fixture(scope="module")
def runner(world: World, host: Host) -> Runner:
    return Runner(world, host)


@pytest.fixture(scope="module")
def outside(host: Host) -> Any:
    def run(case: Case) -> dict[str, Any]:
        name = case.probe or case.name
        return on_the_host(case.control, [(name, host.fill(case.arguments))])[name]

    return run


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The table, where `make escape` asks for it."""
    if not os.environ.get("ANIMUS_ESCAPE_TABLE"):
        return
    rows, controls = {}, {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", ()))
            if "case" in properties and getattr(report, "when", "") == "call":
                row = (properties["tried"], properties.get("blocked", "NOT BLOCKED"), properties.get("recorded", "-"))
                rows[properties["case"]] = row
            elif "control" in properties:
                controls[properties["control"]] = properties.get("shown", "not shown")
    widths = [
        max([len(x), *(len(str(row[at])) for row in rows.values())])
        for at, x in ((0, "tried"), (1, "blocked by"), (2, "recorded in"))
    ]
    name_width = max([4, *map(len, rows)])
    line = "  ".join(f"{{:<{width}}}" for width in (name_width, *widths)) + "  {}"
    terminalreporter.write_sep("=", "escape")
    terminalreporter.write_line(line.format("case", "tried", "blocked by", "recorded in", "without the protection"))
    for name, row in rows.items():
        terminalreporter.write_line(line.format(name, *row, controls.get(name, "not shown")))
    blocked = sum(row[1] != "NOT BLOCKED" for row in rows.values())
    shown = sum(not text.startswith("not shown") for text in controls.values())
    terminalreporter.write_line(f"{blocked} of {len(rows)} blocked and recorded; {shown} shown to succeed without it")
