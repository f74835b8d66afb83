"""Why a ready step waits, told honestly: what keeps it from how many agents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from animus_orchestrator.domain.quota import Standing, exceeded
from animus_orchestrator.domain.scheduler import Need, Obstacle, Room, never, not_now

UNPLACEABLE = "UNPLACEABLE"
"""No node that is online could hold it, however long it waits."""
WAITING_FOR_ROOM = "WAITING_FOR_ROOM"
QUOTA = "QUOTA"
POOL_PAUSED = "POOL_PAUSED"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is online: what it is, what is free of it, and why it gets no work at all (empty when it may)."""

    whole: Room
    free: Room
    unschedulable: str = ""


class Counted(NamedTuple):
    """`example`: the message of one of the agents."""

    reason: str
    agents: int
    example: str


@dataclass(frozen=True, slots=True)
class Why:
    """`eligible`: agents that could take it now."""

    reason: str
    message: str
    obstacles: tuple[Counted, ...] = ()
    eligible: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """The step's pool, as far as it matters: does it lease at all, and to this project."""

    paused: bool = False
    open_to_project: bool = True


def explain(need: Need, nodes: Iterable[Node], standing: Standing, place: Place, *, admitted: bool = True) -> Why:
    """Of a step that is ready, or would be."""
    permanent: dict[str, list[str]] = {}
    passing: dict[str, list[str]] = {}
    eligible = count = 0
    for node in nodes:
        count += 1
        if (why := never(need, node.whole) or not_now(need, node.whole)) is not None:
            permanent.setdefault(why.reason, []).append(why.message)
        elif node.unschedulable:
            passing.setdefault("UNSCHEDULABLE", []).append(f"it gets no work: {node.unschedulable}")
        elif (why := not_now(need, node.free)) is not None:
            passing.setdefault(why.reason, []).append(f"now {why.message}")
        else:
            eligible += 1
    if not place.open_to_project:
        permanent["POOL"] = ["the pool does not serve the project"]
    obstacles = [
        Counted(reason, len(told), told[0])
        for kind in (permanent, passing)
        for reason, told in sorted(kind.items(), key=lambda item: -len(item[1]))
    ]
    if (not passing and not eligible) or not place.open_to_project:
        told = _told(obstacles) or f"no agent of pool {need.pool} is online for this project"
        return Why(UNPLACEABLE, f"no node that is online can hold it: {told}", tuple(obstacles), 0)
    if place.paused:
        return _held(POOL_PAUSED, Obstacle("POOL_PAUSED", f"pool {need.pool} is paused"), obstacles)
    if not admitted:
        return _held(QUOTA, Obstacle("QUOTA", "the project has as many active runs as it may"), obstacles)
    over = exceeded(standing.limits, standing.used, need)
    if over is not None:
        return _held(QUOTA, Obstacle("QUOTA", f"the project's quota of {over}"), obstacles)
    if eligible:
        # Told in the moment between becoming ready and being leased, or while others are before it.
        return Why(WAITING_FOR_ROOM, "others are before it in the queue", tuple(obstacles), eligible)
    return Why(WAITING_FOR_ROOM, f"no node has room now: {_told(obstacles)}", tuple(obstacles))


def _held(reason: str, by: Obstacle, obstacles: list[Counted]) -> Why:
    return Why(reason, by.message, (Counted(by.reason, 0, by.message), *obstacles))


def _told(obstacles: Iterable[Counted]) -> str:
    parts = (f"{o.agents} × {o.reason} ({o.example})" for o in obstacles)
    return "; ".join(parts)[:900]
