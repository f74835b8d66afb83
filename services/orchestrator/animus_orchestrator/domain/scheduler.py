"""Which ready step goes to which agent. Pure: needs and rooms in, pairs out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Need:
    """What a ready step asks of a node."""

    step_uid: int
    project: str
    pool: str
    cpu_millis: int
    memory_bytes: int
    gpus: int = 0
    gpu_model: str = ""
    platform: str = ""
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Gpu:
    uuid: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """What an agent can take now. `projects` empty: every project.

    `pool` and `projects` are the server's; the rest is the node's claim, which narrows placement and never widens it.
    """

    agent: str
    pool: str
    attempts: int
    cpu_millis: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    projects: frozenset[str] = frozenset()
    platform: str = ""
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placement:
    step_uid: int
    agent: str
    gpu_uuids: tuple[str, ...] = ()


def obstacle(need: Need, room: Room) -> str:
    """Why the step cannot go there; empty when it can."""
    if need.pool != room.pool:
        return f"it belongs to pool {room.pool}"
    if room.projects and need.project not in room.projects:
        return "it does not serve the project"
    if need.platform and room.platform and need.platform != room.platform:
        return f"its platform is {room.platform}, the image's is {need.platform}"
    missing = need.capabilities - room.capabilities
    if missing:
        return f"it lacks {', '.join(sorted(missing))}"
    if room.attempts < 1:
        return "it takes no more attempts"
    if need.cpu_millis > room.cpu_millis:
        return f"it has {room.cpu_millis} thousandths of a core free, {need.cpu_millis} are asked for"
    if need.memory_bytes > room.memory_bytes:
        return f"it has {room.memory_bytes} bytes of memory free, {need.memory_bytes} are asked for"
    if need.gpus > len(_matching(need, room)):
        return f"it has too few free GPUs{f' of model {need.gpu_model}' if need.gpu_model else ''}"
    return ""


def _matching(need: Need, room: Room) -> list[Gpu]:
    return [g for g in room.gpus if not need.gpu_model or g.model == need.gpu_model]


def take(need: Need, room: Room) -> tuple[Room, tuple[str, ...]]:
    """The room that is left, and the GPUs given."""
    given = tuple(g.uuid for g in _matching(need, room)[: need.gpus])
    left = replace(
        room,
        attempts=room.attempts - 1,
        cpu_millis=room.cpu_millis - need.cpu_millis,
        memory_bytes=room.memory_bytes - need.memory_bytes,
        gpus=tuple(g for g in room.gpus if g.uuid not in given),
    )
    return left, given


def place(needs: Sequence[Need], rooms: Iterable[Room]) -> list[Placement]:
    """Gives each need, in order, to the agent with the most free cpu that can take it.

    Spreading keeps the largest contiguous room free for what comes next only by chance; it is chosen because it gives
    each step the quietest node. Steps that fit nowhere are left out and stay ready.
    """
    free = {r.agent: r for r in rooms}
    placed: list[Placement] = []
    for need in needs:
        best: Room | None = None
        for room in free.values():
            if obstacle(need, room):
                continue
            if best is None or (room.cpu_millis, room.agent) > (best.cpu_millis, best.agent):
                best = room
        if best is None:
            continue
        left, given = take(need, best)
        placed.append(Placement(need.step_uid, best.agent, given))
        if left.attempts > 0:
            free[best.agent] = left
        else:
            del free[best.agent]
        if not free:
            break
    return placed
