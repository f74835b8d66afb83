"""What streams ask of the writer, and what it answers. All of it is applied on the writer's one thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from animus.agent.v1 import dispatch_pb2 as pb
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.scheduler import Gpu, Room


@dataclass
class SessionState:
    """An agent's open session. Only the writer's thread changes it.

    Free room is what the agent stated, less what it was given and has not listed yet, plus what it held and has ended
    since it spoke.
    """

    agent: Agent
    spool_id: str
    attestation_key: bytes
    attestation_not_after: datetime | None = None
    platform: str = ""
    capabilities: frozenset[str] = frozenset()
    gpu_models: dict[str, str] = field(default_factory=dict)
    size: Amount = Amount()
    """What the whole node has, as it said when it came."""
    version: int = 0
    """Counts its changes: what was computed from it holds as long as this does."""
    stated: Room | None = None
    listed: set[str] = field(default_factory=set)
    """Attempts of the last Status."""
    foreign: frozenset[str] = frozenset()
    """Of these the ones that are not its own: told in the log when they change."""
    given: dict[str, Size] = field(default_factory=dict)
    """Attempts leased to it that no Status has listed yet."""
    doubted: set[str] = field(default_factory=set)
    """Those of `given` that were lost: whether the agent has them its next Status tells."""
    released: dict[str, Size] = field(default_factory=dict)
    """Attempts of the last Status that have ended since."""
    sizes: dict[str, Size] = field(default_factory=dict)
    unschedulable: str = ""
    closed: bool = False

    def room(self) -> Room | None:
        """What it can take now; None when it takes nothing."""
        if self.closed or self.unschedulable or self.stated is None:
            return None
        back, out = list(self.released.values()), list(self.given.values())
        taken = {u for size in out for u in size.gpu_uuids}
        uuids = {g.uuid for g in self.stated.gpus} | {u for size in back for u in size.gpu_uuids}
        room = Room(
            agent=self.agent.id,
            pool=self.agent.pool,
            attempts=self.stated.attempts + len(back) - len(out),
            cpu_millis=self.stated.cpu_millis + sum(s.cpu_millis for s in back) - sum(s.cpu_millis for s in out),
            memory_bytes=self.stated.memory_bytes
            + sum(s.memory_bytes for s in back)
            - sum(s.memory_bytes for s in out),
            gpus=tuple(Gpu(u, self.gpu_models.get(u, "")) for u in sorted(uuids - taken)),
            **self._kind(),
        )
        return room if room.attempts > 0 else None

    def whole(self) -> Room:
        """What it could take if nothing ran there."""
        return Room(
            agent=self.agent.id,
            pool=self.agent.pool,
            attempts=1,
            cpu_millis=self.size.cpu_millis,
            memory_bytes=self.size.memory_bytes,
            gpus=tuple(Gpu(u, model) for u, model in self.gpu_models.items()),
            **self._kind(),
        )

    def _kind(self) -> dict[str, Any]:
        return {
            "projects": self.agent.projects,
            "platform": self.platform,
            "capabilities": self.capabilities,
            "labels": frozenset(f"{key}={value}" for key, value in self.agent.labels.items()),
            "accelerated": bool(self.gpu_models),
        }

    def ended(self, name: str) -> None:
        """An attempt's end is durable: its room is free again."""
        if self.given.pop(name, None) is None and name in self.listed and name in self.sizes:
            self.released[name] = self.sizes[name]


@dataclass(frozen=True, slots=True)
class Size:
    cpu_millis: int
    memory_bytes: int
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """An agent says hello. Answered with `Opened`."""

    agent_id: str
    serial: str
    hello: pb.Hello


@dataclass(frozen=True, slots=True)
class Opened:
    session: SessionState
    acknowledged_seq: int
    directive: pb.Directive


@dataclass(frozen=True, slots=True)
class StatusWork:
    """Answered with a `Directive`."""

    session: SessionState
    status: pb.Status


@dataclass(frozen=True, slots=True)
class EventsWork:
    """Answered with a list of messages: the ack, and a `Directive` if there is news."""

    session: SessionState
    events: pb.Events


@dataclass(frozen=True, slots=True)
class Look:
    """Something may have changed for these sessions. Answered with {agent id: Directive}, or the error that ends it."""

    sessions: tuple[SessionState, ...]
    only_work: bool = False
    """Only whether there is new work: nothing else has changed."""


@dataclass(frozen=True, slots=True)
class Close:
    session: SessionState


Work = Open | StatusWork | EventsWork | Look | Close
