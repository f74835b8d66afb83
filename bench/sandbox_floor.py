"""The floor and what stands on it: a trivial container by conmon and runc alone, with the very configuration, mounts and
quota volume of the product, beside the attempt's whole list of steps with blobs in memory.

    sudo .venv/bin/python bench/sandbox_floor.py [rounds]
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from animus_agent.attempt import steps
from animus_agent.sandbox import cgroup, quota
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import MemoryReporter, World, limits


def main(rounds: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="an-bench-"))
    root.chmod(0o711)
    driver = RuncDriver(root / "runc", cgroup.detect("/animus-bench"))
    pool = quota.QuotaPool(quota.choose(root / "volumes", allow_tmpfs=False), spare=4)
    pool.start(set())
    pool.prime(limits().output_bytes)
    world = World(root, driver, pool)
    marks: dict[str, list[float]] = {}
    floor, whole = [], []
    try:
        # The first makes the image, the template and the spares.
        attempt_once(world, {})
        for _ in range(rounds):
            floor.append(floor_once(world))
            whole.append(attempt_once(world, marks))
    finally:
        pool.close()
        driver.close()
        shutil.rmtree(root, ignore_errors=True)
    report = {
        "floor_ms": summary(floor),
        "attempt_ms": summary(whole),
        "overhead_ms": round(statistics.median(whole) - statistics.median(floor), 1),
        "steps_ms": {name: round(statistics.median(times), 2) for name, times in marks.items()},
    }
    print(json.dumps(report, indent=2))


def order(world: World) -> tuple[str, bytes, bytes]:
    return world.order("/bin/sh", "-c", "echo 1 > /animus/outputs/o/x", outputs=("o",))


def floor_once(world: World) -> float:
    """create, start, end, delete; everything else was made ready before the clock starts."""
    attempt = world.attempt(order(world))
    for step in steps.STEPS[:5]:
        step(attempt)
    handle = attempt.handle
    assert handle is not None
    begin = time.perf_counter()
    world.driver.start(handle)
    world.driver.status(handle, 10)
    world.driver.destroy(handle)
    took = time.perf_counter() - begin
    world.quota.give_back(attempt.volume_name)
    attempt.held.close()
    return took * 1000


def attempt_once(world: World, marks: dict[str, list[float]]) -> float:
    prepared = order(world)
    last = ["accept", time.perf_counter()]
    begin = time.perf_counter()

    def between(name: str) -> None:
        now = time.perf_counter()
        marks.setdefault(str(last[0]), []).append((now - float(last[1])) * 1000)
        last[:] = [name, now]

    reporter = MemoryReporter()
    attempt = world.attempt(prepared, reporter)
    steps.execute(attempt, between)
    between("end")
    took = time.perf_counter() - begin
    assert reporter.results[0].failure is None, reporter.results[0].failure
    steps.clean_up(attempt)
    attempt.directory.remove()
    return took * 1000


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": round(statistics.median(times), 1), "p95": round(ordered[int(len(ordered) * 0.95)], 1)}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
