"""Nodes that are kept free for steps which would otherwise wait for ever behind smaller ones.

A reserved node goes on with what it has. Nothing new is placed on it but what fits beside the step it is reserved for,
so that it gets its turn when what ran there at the time has ended; every step has a timeout. One node for each step, and
few at a time: the others take the small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.scheduler import Need, Room, obstacle

NODES_FOR_EACH = 16
"""One node in so many may be reserved at a time, and always one."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """`before`: names of attempts that the node had when it was reserved; it waits for these alone."""

    need: Need
    agent: str
    before: frozenset[str]


@dataclass(frozen=True, slots=True)
class Node:
    """A node as its session knows it: what it is, what is free of it now, which attempts it has."""

    whole: Room
    free: Room
    held: frozenset[str]


def beside(reservation: Reservation, whole: Room, free: Room, newcomers: Amount) -> Room:
    """What others may have of a reserved node. `newcomers`: what attempts use there that came after it was reserved."""
    need = reservation.need
    spare = max(0, len(whole.gpus) - need.gpus - newcomers.gpus)
    return replace(
        free,
        cpu_millis=max(0, min(free.cpu_millis, whole.cpu_millis - need.cpu_millis - newcomers.cpu_millis)),
        memory_bytes=max(0, min(free.memory_bytes, whole.memory_bytes - need.memory_bytes - newcomers.memory_bytes)),
        gpus=free.gpus[:spare],
        attempts=max(0, free.attempts - 1),
    )


def reserve(starved: Iterable[Need], nodes: Mapping[str, Node], held: Iterable[Reservation]) -> Reservation | None:
    """The next reservation, for the first of the starved steps that has none and that some node could hold.

    The node that lacks least is chosen.
    """
    held = list(held)
    taken = {one.agent for one in held}
    served = {one.need.step_uid for one in held}
    pools = [nodes[one.agent].whole.pool for one in held if one.agent in nodes]
    for need in starved:
        if need.step_uid in served:
            continue
        own = [node for node in nodes.values() if node.whole.pool == need.pool]
        if pools.count(need.pool) >= max(1, len(own) // NODES_FOR_EACH):
            continue
        could = [n for n in own if n.whole.agent not in taken and obstacle(need, n.whole) is None]
        if could:
            chosen = min(could, key=lambda n: (_lacking(need, n.free), n.whole.agent))
            return Reservation(need, chosen.whole.agent, chosen.held)
    return None


def _lacking(need: Need, free: Room) -> float:
    """The largest part of anything that the step needs and the node has not free."""
    parts = (
        (need.cpu_millis, free.cpu_millis),
        (need.memory_bytes, free.memory_bytes),
        (need.gpus, len(free.gpus)),
    )
    return max((wanted - there) / wanted if wanted else 0.0 for wanted, there in parts)
