"""The room that a node has left: what its attempts have not reserved, and nothing once its disk is full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from animus.agent.v1 import dispatch_pb2 as pb
from animus_agent.disk import Disk
from animus_agent.node import NodeParts
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract
from animus_kit.documents.errors import DocumentError


class Reserved(Protocol):
    """What one attempt takes."""

    cpu_millis: int
    memory_bytes: int
    gpu_uuids: tuple[str, ...]


class Room:
    """Looked at by one thread: that of the session."""

    def __init__(self, parts: NodeParts, max_attempts: int, disk: Disk) -> None:
        self._parts = parts
        self._max_attempts = max_attempts
        self._disk = disk

    def beside(self, live: Sequence[Reserved]) -> pb.Room:
        """What is left beside these."""
        if self._disk.is_full():
            return pb.Room()
        node = self._parts.node
        return pb.Room(
            attempts=max(0, self._max_attempts - len(live)),
            cpu_millis=max(0, node.cpu_millis - sum(one.cpu_millis for one in live)),
            memory_bytes=max(0, node.memory_bytes - sum(one.memory_bytes for one in live)),
            gpu_uuids=self._free_gpus(live),
        )

    def _free_gpus(self, live: Sequence[Reserved]) -> list[str]:
        """Of those that were announced: one that came back meanwhile is told with the next start. And not those of an
        attempt that has not got as far as taking them."""
        announced = {device.uuid for device in self._parts.node.gpus.devices}
        return sorted((announced & set(self._parts.gpus.free())).difference(*(one.gpu_uuids for one in live)))


def reserved(contract: bytes) -> tuple[int, int, tuple[str, ...]]:
    """What a signed contract reserves: thousandths of a core, bytes, GPUs; an unreadable one reserves nothing and is
    refused by the first step."""
    try:
        order = Contract.from_bytes(dsse.open_unverified(contract, Contract.NOUN)[0])
    except DocumentError:
        return 0, 0, ()
    return order.resources.cpu_millis, order.resources.memory_bytes, order.gpu_uuids or ()
