"""Whether a container on this node sees its own devices and no others: tried with real ones, before any is offered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from animus_agent.errors import AgentError
from animus_agent.files import remove_tree
from animus_agent.gpu.pool import GpuPool
from animus_agent.sandbox import canary
from animus_agent.sandbox.driver import Device, Driver
from animus_agent.sandbox.quota import QuotaPool
from animus_kit.documents.sandbox import Feature

NAME = "gpu-devices"
# What every container has; anything else in /dev must have been given.
USUAL = (
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
)  # fmt: skip
# Prints [held, detail]: what can be opened, what cannot, and whether these are all the nodes there are.
_PROBE = """
import errno, json, os
def attempt(path):
    try:
        os.close(os.open(path, os.O_RDWR))
        return "open"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
def nodes(folder):
    found = set()
    for entry in os.scandir(folder):
        if entry.name in USUAL and folder == "/dev":
            continue
        found |= nodes(entry.path) if entry.is_dir(follow_symlinks=False) else {entry.path}
    return found
found = nodes("/dev")
told = {path: attempt(path) for path in sorted(found)}
held = found == set(WANTED) and all(what in ALLOWED for what in told.values())
print(json.dumps([held, json.dumps(told)]))
"""


def examine(driver: Driver, quota: QuotaPool, directory: Path, pool: GpuPool) -> tuple[Feature, ...]:
    """() on a node that offers no GPUs."""
    uuids = [device.uuid for device in pool.offered().devices]
    if not uuids:
        return ()
    if driver.name == "fake":
        return (Feature(name=NAME, enforced=True, detail="fake driver"),)
    # One that no adopted attempt uses, where there is one; only opened and closed in any case.
    one = (pool.free() or uuids)[0]
    directory = directory.with_name("canary-gpu")
    remove_tree(directory)
    directory.mkdir(parents=True, mode=0o711)
    try:
        own, every = pool.provision([one]).devices, pool.provision(uuids).devices
        forbidden = tuple(replace(device, access="") for device in every)
        seen = _try(driver, quota, directory, "own", own, ("open",))
        # The nodes are there, and the rules alone keep them closed.
        kept = _try(driver, quota, directory, "others", forbidden, ("EPERM",))
    except (AgentError, OSError) as error:
        return (Feature(name=NAME, enforced=False, detail=f"{type(error).__name__}: {error}"[:4000]),)
    finally:
        remove_tree(directory)
    detail = f"given: {seen[1]}; not allowed: {kept[1]}"
    return (Feature(name=NAME, enforced=seen[0] and kept[0], detail=detail[:4000]),)


def _try(
    driver: Driver, quota: QuotaPool, directory: Path, name: str, devices: tuple[Device, ...], allowed: tuple[str, ...]
) -> tuple[bool, str]:
    wanted = [device.path for device in devices]
    code = f"USUAL, WANTED, ALLOWED = {json.dumps(USUAL)}, {json.dumps(wanted)}, {json.dumps(allowed)}\n{_PROBE}"
    return canary.said(lambda: canary.run(driver, quota, directory / name, f"gpu-{name}", code, 1000, devices=devices))
