"""An agent: what the server decides about a node, and what the node says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

CLOCK_SKEW_LIMIT_SECONDS = 30 * 60
"""A node whose wall clock is further off gets no work; what it runs goes on."""

CLOCK_SKEW_NOTICE_SECONDS = 5.0

REMEMBERED_INSTANCES = 32


class AgentState(StrEnum):
    """The names are those of `Agent.State` on the wire."""

    ENROLLED = "ENROLLED"
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    CORDONED = "CORDONED"
    DRAINING = "DRAINING"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class Agent:
    """`pool`, `projects` and `labels` come from the join token; an empty `projects` means every project.

    `cordoned` holds the reason why the server gives it no work, empty when it may; `draining` is the node's own wish.
    """

    id: str
    pool: str
    projects: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    cordoned: str = ""
    draining: bool = False
    revoked: bool = False
    session: int = 0
    session_open: bool = False
    instance_id: str = ""
    past_instances: tuple[str, ...] = ()
    clock_skew_seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"agents/{self.id}"


def state(agent: Agent) -> tuple[AgentState, str]:
    """What to show: the state, and why it gets no work."""
    if agent.revoked:
        return AgentState.REVOKED, agent.cordoned
    if agent.cordoned:
        return AgentState.CORDONED, agent.cordoned
    if agent.session == 0:
        return AgentState.ENROLLED, ""
    if not agent.session_open:
        return AgentState.OFFLINE, ""
    if agent.draining:
        return AgentState.DRAINING, "AGENT_DRAINING"
    if abs(agent.clock_skew_seconds) > CLOCK_SKEW_LIMIT_SECONDS:
        return AgentState.ONLINE, "CLOCK_SKEW"
    if abs(agent.clock_skew_seconds) > CLOCK_SKEW_NOTICE_SECONDS:
        return AgentState.ONLINE, "CLOCK_OFF"
    return AgentState.ONLINE, ""


def unschedulable(agent: Agent) -> str:
    """Why the agent gets no new work; empty when it may."""
    if agent.revoked:
        return "REVOKED"
    if agent.cordoned:
        return agent.cordoned
    if abs(agent.clock_skew_seconds) > CLOCK_SKEW_LIMIT_SECONDS:
        return "CLOCK_SKEW"
    if agent.draining:
        return "AGENT_DRAINING"
    return ""


def connect(agent: Agent, instance_id: str) -> Agent:
    """Opens the next session, which fences every older one.

    A restarted agent has a new instance id and never an old one again. An id that comes back after another was seen
    means that two processes hold one identity: the node is cordoned until somebody has looked.
    """
    cloned = instance_id != agent.instance_id and instance_id in agent.past_instances
    past = agent.past_instances
    if agent.instance_id and agent.instance_id != instance_id:
        past = (*past, agent.instance_id)[-REMEMBERED_INSTANCES:]
    return replace(
        agent,
        session=agent.session + 1,
        session_open=True,
        instance_id=instance_id,
        past_instances=past,
        cordoned="IDENTITY_CLONED" if cloned and not agent.cordoned else agent.cordoned,
    )


def clock_skew(client_time: datetime | None, now: datetime) -> float:
    """Seconds by which the node's wall clock is ahead."""
    return (client_time - now).total_seconds() if client_time is not None else 0.0
