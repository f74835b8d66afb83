"""What a ready step asks of a node, what a node has, and what stands between them. Plain data, no state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from animus_kit.documents.action import is_model


@dataclass(frozen=True, slots=True)
class Need:
    """What a ready step asks of a node. `selector`: labels that the node must carry, each "key=value"."""

    step_uid: int
    project: str
    pool: str
    cpu_millis: int
    memory_bytes: int
    gpus: int = 0
    gpu_model: str = ""
    platform: str = ""
    capabilities: frozenset[str] = frozenset()
    selector: frozenset[str] = frozenset()

    @property
    def demand(self) -> tuple[object, ...]:
        """Equal for steps that ask for the same: what does not fit one of them does not fit the others."""
        return (
            self.pool, self.project, self.cpu_millis, self.memory_bytes, self.gpus, self.gpu_model, self.platform,
            self.capabilities, self.selector,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gpu:
    uuid: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """What an agent can take now. `projects` empty: every project. `labels`: each "key=value". `accelerated`: the node
    has GPUs, free or not.

    `pool`, `projects` and `labels` are the server's; the rest is the node's claim, which narrows placement and never
    widens it.
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
    labels: frozenset[str] = frozenset()
    accelerated: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    step_uid: int
    agent: str
    gpu_uuids: tuple[str, ...] = ()


class Obstacle(NamedTuple):
    """Why a step cannot go to a node. `reason` is stable."""

    reason: str
    message: str


def obstacle(need: Need, room: Room) -> Obstacle | None:
    """Why the step cannot go there; None when it can. What no waiting cures comes first."""
    return never(need, room) or not_now(need, room)


def never(need: Need, room: Room) -> Obstacle | None:
    """What keeps the step out of the node however empty it is, but for its size."""
    if need.pool != room.pool:
        return Obstacle("POOL", f"it belongs to pool {room.pool}")
    if room.projects and need.project not in room.projects:
        return Obstacle("PROJECT", "it does not serve the project")
    if missing := need.selector - room.labels:
        return Obstacle("LABELS", f"its join token gave it no label {', '.join(sorted(missing))}")
    if need.platform and room.platform and need.platform != room.platform:
        return Obstacle("PLATFORM", f"its platform is {room.platform}, the image's is {need.platform}")
    if missing := need.capabilities - room.capabilities:
        return Obstacle("CAPABILITY", f"it lacks {', '.join(sorted(missing))}")
    return None


def not_now(need: Need, room: Room) -> Obstacle | None:
    """What of the room is too small. Of a whole node: too small for ever."""
    if need.cpu_millis > room.cpu_millis:
        return Obstacle("CPU", f"it has {room.cpu_millis} thousandths of a core, {need.cpu_millis} are asked for")
    if need.memory_bytes > room.memory_bytes:
        return Obstacle("MEMORY", f"it has {room.memory_bytes} bytes of memory, {need.memory_bytes} are asked for")
    if need.gpus > len(matching(need, room)):
        return Obstacle("GPU", f"it has too few GPUs{f' of model {need.gpu_model}' if need.gpu_model else ''}")
    if room.attempts < 1:
        return Obstacle("ATTEMPTS", "it takes no more attempts")
    return None


def matching(need: Need, room: Room) -> Sequence[Gpu]:
    """The GPUs of the room that the step may have."""
    return [g for g in room.gpus if is_model(need.gpu_model, g.model)] if need.gpu_model else room.gpus


def take(need: Need, room: Room) -> tuple[Room, tuple[str, ...]]:
    """The room that is left, and the GPUs given."""
    given = tuple(g.uuid for g in matching(need, room)[: need.gpus])
    left = replace(
        room,
        attempts=room.attempts - 1,
        cpu_millis=room.cpu_millis - need.cpu_millis,
        memory_bytes=room.memory_bytes - need.memory_bytes,
        gpus=tuple(g for g in room.gpus if g.uuid not in given) if given else room.gpus,
    )
    return left, given


def best(need: Need, rooms: Iterable[Room]) -> Room | None:
    """The room with the most free cpu that can take the step. One that wants no GPU goes to a node with GPUs only if no
    other can take it.

    Each step gets the quietest node. `rooms.Rooms` finds as good a one without looking at all of them, and a test holds
    it against this.
    """
    found = [room for room in rooms if obstacle(need, room) is None]
    if not need.gpus and any(not room.accelerated for room in found):
        found = [room for room in found if not room.accelerated]
    return max(found, key=lambda room: room.cpu_millis, default=None)
