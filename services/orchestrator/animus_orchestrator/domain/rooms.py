"""The rooms of many agents, indexed: finding one costs the logarithm of their number.

Agents of one kind (pool, projects, labels, platform, capabilities: all that does not change with what runs there) stand
in one tree whose inner nodes know the most cpu, memory and GPUs that any agent below them has free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from animus_orchestrator.domain.scheduler import Need, Room, never, not_now

_Kind = tuple[object, ...]


def _kind(room: Room) -> _Kind:
    return room.pool, room.projects, room.labels, room.platform, room.capabilities, room.accelerated


@dataclass(frozen=True, slots=True)
class Reach:
    """The most that any room has of each; `projects` None: every one."""

    cpu_millis: int
    memory_bytes: int
    gpus: int
    pools: frozenset[str]
    projects: frozenset[str] | None
    capabilities: frozenset[str]
    labels: frozenset[str]


class Rooms:
    """Put rooms in with `put`, take the best with `best`. A room without attempts left is never found."""

    def __init__(self, rooms: Iterable[Room] = ()):
        self._trees: dict[_Kind, _Tree] = {}
        self._tree_of: dict[str, _Tree] = {}
        # Needs differ in size more than in kind: which trees a kind of need may look into is found once.
        self._open: dict[_Kind, tuple[list[_Tree], list[_Tree]]] = {}
        for room in rooms:
            self.put(room)

    def __len__(self) -> int:
        return len(self._tree_of)

    def __iter__(self) -> Iterator[Room]:
        for tree in self._trees.values():
            yield from tree

    def get(self, agent: str) -> Room | None:
        tree = self._tree_of.get(agent)
        return tree.get(agent) if tree is not None else None

    def put(self, room: Room) -> None:
        """Adds or replaces the room of an agent."""
        kind = _kind(room)
        tree = self._trees.get(kind)
        if tree is None:
            tree = self._trees[kind] = _Tree()
            self._open.clear()
        before = self._tree_of.get(room.agent)
        if before is not None and before is not tree:
            self.remove(room.agent)
        self._tree_of[room.agent] = tree
        tree.put(room)

    def remove(self, agent: str) -> None:
        tree = self._tree_of.pop(agent, None)
        if tree is None:
            return
        tree.remove(agent)
        if not len(tree):
            self._trees = {kind: one for kind, one in self._trees.items() if one is not tree}
            self._open.clear()

    def best(self, need: Need) -> Room | None:
        """The room with the most free cpu that can take the step, as `scheduler.best`; None when none can."""
        plain, accelerated = self._trees_for(need)
        if need.gpus:
            return _best(need, plain + accelerated)
        return _best(need, plain) or _best(need, accelerated)

    def reach(self) -> Reach:
        """What a step must not be beyond to fit anywhere here."""
        trees = [(tree, next(iter(tree))) for tree in self._trees.values()]
        kinds = [room for _, room in trees]
        return Reach(
            cpu_millis=max((tree.cpu_millis for tree, _ in trees), default=-1),
            memory_bytes=max((tree.memory_bytes for tree, _ in trees), default=-1),
            gpus=max((tree.gpus for tree, _ in trees), default=-1),
            pools=frozenset(room.pool for room in kinds),
            projects=None if any(not r.projects for r in kinds) else frozenset().union(*(r.projects for r in kinds)),
            capabilities=frozenset().union(*(r.capabilities for r in kinds)),
            labels=frozenset().union(*(r.labels for r in kinds)),
        )

    def _trees_for(self, need: Need) -> tuple[list[_Tree], list[_Tree]]:
        """Those without GPUs, and those with."""
        kind = need.pool, need.project, need.selector, need.platform, need.capabilities
        trees = self._open.get(kind)
        if trees is None:
            samples = [(tree, next(iter(tree))) for tree in self._trees.values()]
            may = [(tree, room.accelerated) for tree, room in samples if never(need, room) is None]
            if len(self._open) > 10_000:
                self._open.clear()
            trees = self._open[kind] = ([t for t, gpus in may if not gpus], [t for t, gpus in may if gpus])
        return trees


def _best(need: Need, trees: list[_Tree]) -> Room | None:
    found: Room | None = None
    for tree in trees:
        room = tree.best(need, found.cpu_millis if found is not None else -1)
        if room is not None:
            found = room
    return found


class _Tree:
    """A complete binary tree over rooms of one kind, as arrays; node i has the children 2i and 2i+1."""

    def __init__(self) -> None:
        self._size = 1
        self._place: dict[str, int] = {}
        self._rooms: list[Room | None] = [None]
        self._free: list[int] = [0]
        self._cpu, self._memory, self._gpus = [-1, -1], [-1, -1], [-1, -1]

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[Room]:
        return (room for room in self._rooms if room is not None)

    @property
    def cpu_millis(self) -> int:
        """The most that any has free; -1 where none takes anything. So with the others."""
        return self._cpu[1]

    @property
    def memory_bytes(self) -> int:
        return self._memory[1]

    @property
    def gpus(self) -> int:
        return self._gpus[1]

    def get(self, agent: str) -> Room | None:
        at = self._place.get(agent)
        return self._rooms[at] if at is not None else None

    def put(self, room: Room) -> None:
        at = self._place.get(room.agent)
        if at is None:
            if not self._free:
                self._grow()
            at = self._place[room.agent] = self._free.pop()
        self._rooms[at] = room
        if room.attempts > 0:
            self._set(at, room.cpu_millis, room.memory_bytes, len(room.gpus))
        else:
            self._set(at, -1, -1, -1)

    def remove(self, agent: str) -> None:
        at = self._place.pop(agent)
        self._rooms[at] = None
        self._free.append(at)
        self._set(at, -1, -1, -1)

    def best(self, need: Need, more_than: int) -> Room | None:
        """The first room with the most cpu, if that is more than `more_than`."""
        cpu, memory, gpus = self._cpu, self._memory, self._gpus
        least = max(need.cpu_millis - 1, more_than)
        found: Room | None = None
        stack = [1]
        while stack:
            node = stack.pop()
            if cpu[node] <= least or memory[node] < need.memory_bytes or gpus[node] < need.gpus:
                continue
            if node >= self._size:
                room = self._rooms[node - self._size]
                if room is not None and not_now(need, room) is None:
                    found, least = room, room.cpu_millis
                continue
            left, right = 2 * node, 2 * node + 1
            # The promising side is looked at first, so that the other is cut off.
            stack += (right, left) if cpu[left] >= cpu[right] else (left, right)
        return found

    def _set(self, at: int, cpu: int, memory: int, gpus: int) -> None:
        cpus, memories, gpu_counts = self._cpu, self._memory, self._gpus
        node = at + self._size
        cpus[node], memories[node], gpu_counts[node] = cpu, memory, gpus
        node >>= 1
        while node:
            left, right = 2 * node, 2 * node + 1
            now = max(cpus[left], cpus[right]), max(memories[left], memories[right]), max(
                gpu_counts[left], gpu_counts[right]
            )  # fmt: skip
            if now == (cpus[node], memories[node], gpu_counts[node]):
                return
            cpus[node], memories[node], gpu_counts[node] = now
            node >>= 1

    def _grow(self) -> None:
        rooms, size = self._rooms, self._size * 2
        # Taken from the end: the first free place first.
        self._free = list(range(size - 1, self._size - 1, -1))
        self._rooms, self._size = rooms + [None] * len(rooms), size
        for values in (self._cpu, self._memory, self._gpus):
            values[:] = [-1] * size + values[size // 2 :] + [-1] * (size // 2)
            for node in range(size - 1, 0, -1):
                values[node] = max(values[2 * node], values[2 * node + 1])
