"""The GPUs of this node: which are offered, whose each is, and what a container needs to use them.

One attempt at a time has a device, from before its container exists until the container is known to be dead. The server
keeps the same rule; this is the second lock on the door, and the one that knows what really runs.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from animus_agent.errors import ContractRefused, GpuUnavailable
from animus_agent.gpu import cdi
from animus_agent.gpu.devices import GpuDevice, GpuInventory, Gpus, NoGpus
from animus_agent.gpu.provision import Provision, provision
from animus_kit.documents.contract import Contract

NVIDIA_KIND = "nvidia.com/gpu"
# Held for as long as this process lives, so that two agents of one machine never offer one device.
LOCKS = Path("/run/lock/animus-gpus")
RELEASE_SECONDS = 30.0


class GpuPool:
    """Safe for many threads. `only`: UUIDs to offer, all when empty. `programs`: CDI hooks that may be run."""

    def __init__(
        self,
        inventory: GpuInventory | None = None,
        folders: Iterable[Path] = (),
        only: Iterable[str] = (),
        programs: Iterable[str] = (),
        locks: Path = LOCKS,
    ) -> None:
        self._inventory = inventory or NoGpus()
        # /var/run is a link on most machines; what it leads to is what must be root's.
        self._folders = [Path(os.path.realpath(folder)) for folder in folders]
        self._only = frozenset(only)
        self._programs = tuple(programs)
        self._locks = locks
        self._locked: dict[str, int] = {}
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._read = Gpus(reason="not looked for")
        self._offered: dict[str, GpuDevice] = {}
        self._left_out: dict[str, str] = {}
        self._cdi: dict[str, cdi.CdiDevice] = {}
        # UUID → the attempt that has it.
        self._holders: dict[str, str] = {}
        self._ending: set[str] = set()

    # What there is.

    def refresh(self) -> bool:
        """Looks at the devices and specifications again; whether what is offered changed."""
        with self._reading:
            read = self._inventory.read()
            registry = cdi.load(self._folders) if read.devices else cdi.Registry()
            offered: dict[str, GpuDevice] = {}
            left_out: dict[str, str] = {}
            found: dict[str, cdi.CdiDevice] = {}
            for device in read.devices:
                try:
                    found[device.uuid] = self._usable(device, registry)
                    offered[device.uuid] = device
                except (GpuUnavailable, OSError) as error:
                    left_out[device.uuid] = str(error)
            for uuid, reason in self._shared(found).items():
                del offered[uuid], found[uuid]
                left_out[uuid] = reason
            reasons = [read.reason, *registry.problems] if not offered else [read.reason]
            with self._changed:
                changed = offered.keys() != self._offered.keys()
                self._read = replace(read, reason="; ".join(filter(None, reasons)), left_out=left_out)
                self._offered, self._left_out, self._cdi = offered, left_out, found
        return changed

    def offered(self) -> Gpus:
        """What this node offers, with what it leaves out and why."""
        with self._changed:
            return replace(self._read, devices=tuple(self._offered.values()))

    def free(self) -> list[str]:
        """UUIDs of devices that are offered and nobody's."""
        with self._changed:
            return sorted(uuid for uuid in self._offered if uuid not in self._holders)

    def trouble(self, uuids: Iterable[str]) -> str:
        """Why one of these must not be used any more; empty when all are well. Looks at them again."""
        wanted = sorted(set(uuids))
        if not wanted:
            return ""
        self.refresh()
        with self._changed:
            gone = [uuid for uuid in wanted if uuid not in self._offered]
            return "; ".join(f"{uuid}: {self._left_out.get(uuid, 'it is gone')}" for uuid in gone)

    def close(self) -> None:
        self._inventory.close()
        for fd in self._locked.values():
            os.close(fd)
        self._locked.clear()

    # Whose it is.

    def claim(
        self, order: Contract, wait_seconds: float = RELEASE_SECONDS, check: Callable[[], None] = lambda: None
    ) -> None:
        """Makes the contract's devices its attempt's alone; repeatable. Raises ContractRefused.

        A device whose former attempt has ended and is only being cleaned up is waited for; nobody waits for one that
        another attempt runs on: then the server has given it twice.
        """
        uuids = self._checked(order)
        deadline = time.monotonic() + wait_seconds
        while uuids:
            check()
            with self._changed:
                busy = {
                    uuid: self._holders[uuid]
                    for uuid in uuids
                    if self._holders.get(uuid, order.attempt) != order.attempt
                }
                if not busy:
                    self._holders |= dict.fromkeys(uuids, order.attempt)
                    return
                uuid, holder = next(iter(busy.items()))
                if holder not in self._ending or time.monotonic() >= deadline:
                    raise ContractRefused(f"{uuid} is {holder}'s", "GPU_IN_USE")
                self._changed.wait(0.2)

    def adopt(self, attempt: str, uuids: Iterable[str]) -> None:
        """Notes what an attempt of a process before us has; not refused, since its container may run."""
        with self._changed:
            for uuid in uuids:
                self._holders.setdefault(uuid, attempt)

    def has(self, attempt: str) -> bool:
        """Whether any device is this attempt's."""
        with self._changed:
            return attempt in self._holders.values()

    def ending(self, attempt: str) -> None:
        """Its result is being reported, and its container is not yet known to be gone."""
        with self._changed:
            if attempt in self._holders.values():
                self._ending.add(attempt)

    def release(self, attempt: str) -> None:
        """Its container is dead. Repeatable."""
        with self._changed:
            self._holders = {uuid: holder for uuid, holder in self._holders.items() if holder != attempt}
            self._ending.discard(attempt)
            self._changed.notify_all()

    def provision(self, uuids: Iterable[str]) -> Provision:
        """What a container with these devices gets. Raises GpuUnavailable."""
        wanted = sorted(set(uuids))
        with self._changed:
            missing = [uuid for uuid in wanted if uuid not in self._cdi]
            found = [self._cdi[uuid] for uuid in wanted if uuid in self._cdi]
        if missing:
            raise GpuUnavailable(f"{missing[0]} is not offered here any more")
        return provision(found, self._programs)

    # Inside.

    def _checked(self, order: Contract) -> tuple[str, ...]:
        uuids, accelerator = order.gpu_uuids or (), order.action.accelerator
        if len(uuids) != order.resources.gpu:
            raise ContractRefused(f"{order.resources.gpu} GPUs are reserved and {len(uuids)} named", "GPU_UNASSIGNED")
        if accelerator is not None and (accelerator.kind, accelerator.count) != ("gpu", len(uuids)):
            raise ContractRefused(f"{accelerator.count} of kind {accelerator.kind} are declared", "GPU_UNASSIGNED")
        with self._changed:
            for uuid in uuids:
                device = self._offered.get(uuid)
                # One that fell ill under its own attempt is for the end of that attempt to tell.
                if device is None and self._holders.get(uuid) != order.attempt:
                    reason = "GPU_UNHEALTHY" if uuid in self._left_out else "GPU_UNKNOWN"
                    raise ContractRefused(f"{uuid}: {self._left_out.get(uuid, 'there is no such device here')}", reason)
                if device is not None and accelerator is not None and not accelerator.takes(device.model):
                    raise ContractRefused(f"{uuid} is a {device.model}, no {accelerator.model}", "GPU_MODEL_MISMATCH")
        return uuids

    def _usable(self, device: GpuDevice, registry: cdi.Registry) -> cdi.CdiDevice:
        if self._only and device.uuid not in self._only:
            raise GpuUnavailable("not among ANIMUS_AGENT_GPU_UUIDS")
        if device.trouble:
            raise GpuUnavailable(device.trouble)
        found = _described(device, registry)
        if found is None:
            problems = f" ({'; '.join(registry.problems)})" if registry.problems else ""
            raise GpuUnavailable(f"no CDI specification describes it{problems}"[:1000])
        # Tried now, so that what cannot be given is never offered.
        provision([found], self._programs)
        self._lock_device(device.uuid)
        return found

    def _shared(self, found: dict[str, cdi.CdiDevice]) -> dict[str, str]:
        """Devices of which a node is another's too: whoever had the one would have the other."""
        owners: dict[str, list[str]] = {}
        for uuid, device in found.items():
            common = {node.host_path for node in device.common.nodes}
            for path in {node.host_path for node in device.own.nodes} - common:
                owners.setdefault(os.path.realpath(path), []).append(uuid)
        return {
            uuid: f"{path} is the node of several devices"
            for path, uuids in owners.items()
            if len(uuids) > 1
            for uuid in uuids
        }

    def _lock_device(self, uuid: str) -> None:
        if uuid in self._locked:
            return
        self._locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._locks / uuid, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise GpuUnavailable("another agent of this machine offers it") from None
        self._locked[uuid] = fd


def _described(device: GpuDevice, registry: cdi.Registry) -> cdi.CdiDevice | None:
    """By its name in the list, by its UUID, or by the device node that is its own: names by index change with a reboot."""
    if device.cdi:
        return registry.devices.get(device.cdi)
    if (found := registry.devices.get(f"{NVIDIA_KIND}={device.uuid}")) is not None:
        return found
    if device.minor is None:
        return None
    path = f"/dev/nvidia{device.minor}"
    own = [
        one
        for name, one in registry.devices.items()
        if name.startswith(f"{NVIDIA_KIND}=")
        # The device `all` has every node.
        and [node.path for node in one.own.nodes if node.path.removeprefix("/dev/nvidia").isdigit()] == [path]
    ]
    return own[0] if own else None


def visible_devices(order: Contract) -> dict[str, str]:
    """What tells programs which devices are theirs: the very UUIDs. The nodes alone decide what can be opened."""
    uuids = ",".join(order.gpu_uuids or ())
    return {"CUDA_VISIBLE_DEVICES": uuids, "NVIDIA_VISIBLE_DEVICES": uuids} if uuids else {}
