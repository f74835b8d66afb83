"""The raw floor of a step: its container by conmon and runc alone, with the product's own configuration."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from animus_agent.attempt import steps
from animus_agent.attempt.attempt import Attempt
from animus_agent.sandbox import cgroup, quota
from animus_agent.sandbox.driver import Handle
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import World
from animus_kit.documents.contract import DEFAULT_LIMITS

# Up to prepare_sandbox: what stands ready before the clock runs.
READY = steps.STEPS[: steps.STEPS.index(steps.prepare_sandbox) + 1]
SPARE_VOLUMES = 4


@contextmanager
def node(root: Path) -> Iterator[World]:
    """A node without its agent: driver, volumes, images. Warm: image, template and spares are made."""
    driver = RuncDriver(root / "runc", cgroup.detect("/animus-bench"))
    pool = quota.QuotaPool(quota.choose(root / "volumes", allow_tmpfs=False), spare=SPARE_VOLUMES)
    pool.start(set())
    world = World(root, driver, pool)
    try:
        bare(world)
        yield world
    finally:
        for container in driver.ids():
            driver.remove(container)
        pool.close()
        driver.close()


def order(world: World) -> tuple[str, bytes, bytes]:
    """A trivial step, with the limits that every contract has."""
    script = "echo 1 > /animus/outputs/out/x"
    return world.order(
        "/bin/sh", "-euc", script, outputs=("out",), cpu=500, memory=64 << 20, limits=DEFAULT_LIMITS
    )  # fmt: skip


def bare(world: World) -> float:
    """Milliseconds of create, start, end and delete by the two programs alone; nothing is checked, hashed, uploaded or
    told, and no code of the agent runs in between."""
    attempt, handle, conmon = prepared(world)
    begin = time.perf_counter()
    run_container(conmon, handle)
    took = time.perf_counter() - begin
    given_back(world, attempt)
    return took * 1000


def side_by_side(world: World, count: int, workers: int) -> float:
    """Containers a second: `count` of them, so many at once, as `bare`."""
    ready = [prepared(world) for _ in range(count)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(run_container, conmon, handle) for _, handle, conmon in ready]:
            done.result()
    took = time.perf_counter() - begin
    for attempt, _, _ in ready:
        given_back(world, attempt)
    return count / took


def prepared(world: World) -> tuple[Attempt, Handle, list[str]]:
    """Everything up to the container itself, and conmon's command."""
    attempt = world.attempt(order(world))
    for step in READY:
        step(attempt)
    handle = attempt.handle
    assert handle is not None and isinstance(world.driver, RuncDriver)
    return attempt, handle, world.driver.conmon_command(handle)


def given_back(world: World, attempt: Attempt) -> None:
    assert attempt.handle is not None
    world.driver.remove(attempt.handle.id)
    world.quota.give_back(attempt.volume_name)
    attempt.held.close()
    attempt.directory.remove()


def run_container(conmon: list[str], handle: Handle) -> None:
    """Raises RuntimeError, CalledProcessError."""
    runc = [conmon[conmon.index("-r") + 1], conmon[conmon.index("--runtime-arg") + 1]]
    read_end, write_end = os.pipe()
    created = subprocess.Popen(
        conmon, env={"_OCI_SYNCPIPE": str(write_end), "PATH": os.environ["PATH"]}, pass_fds=[write_end]
    )
    os.close(write_end)
    # conmon tells the pid of the created container, or a negative number.
    with os.fdopen(read_end, "rb") as pipe:
        told = json.loads(pipe.readline())
    created.wait()
    if told["data"] < 0:
        raise RuntimeError(f"no container was created: {told}")
    directory = Path(handle.directory)
    monitor = os.pidfd_open(int((directory / "conmon.pid").read_text()))
    try:
        subprocess.run([*runc, "start", handle.id], check=True)
        select.select([monitor], [], [], 60)
    finally:
        os.close(monitor)
    code = (directory / "exits" / handle.id).read_text()
    if code != "0":
        raise RuntimeError(f"the bare container ended with {code}")
    subprocess.run([*runc, "delete", handle.id], check=True)
