"""The raw floor of a step: its container by conmon and runc alone, with the product's own configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from animus_agent.attempt import steps
from animus_agent.sandbox import cgroup, quota
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
    """Milliseconds of create, start, end and delete; nothing is checked, hashed, uploaded or told."""
    attempt = world.attempt(order(world))
    for step in READY:
        step(attempt)
    handle = attempt.handle
    assert handle is not None
    begin = time.perf_counter()
    world.driver.start(handle)
    while world.driver.status(handle, 10).name == "RUNNING":
        pass
    world.driver.destroy(handle)
    took = time.perf_counter() - begin
    world.quota.give_back(attempt.volume_name)
    attempt.held.close()
    attempt.directory.remove()
    return took * 1000
