"""An agent: what the server decides about a node, and what the node says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from animus_orchestrator.domain.errors import AgentRevoked, IdentityCloned

CLOCK_SKEW_LIMIT_SECONDS = 30 * 60
"""A node whose wall clock is further off gets no work; what it runs goes on."""

CLOCK_SKEW_NOTICE_SECONDS = 5.0

UNREADABLE_CLOCK_SECONDS = 1e11
"""How far off a clock is taken to be that tells a time no calendar knows."""

REMEMBERED_INSTANCES = 32

CORDONED = "CORDONED"
"""Somebody said so; the message tells why."""
IDENTITY_CLONED = "IDENTITY_CLONED"
"""Two processes held one identity. Only new keys end it."""
IDENTITY_RENEWED = "IDENTITY_RENEWED"
"""The node has enrolled again with new keys; somebody must look before it gets work."""


class AgentState(StrEnum):
    """The names are those of `Agent.State` on the wire."""

    ENROLLED = "ENROLLED"
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    CORDONED = "CORDONED"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class Agent:
    """`pool`, `projects` and `labels` come from the join token; an empty `projects` means every project.

    `cordoned` holds the reason why the server gives it no work, empty when it may. `drain_time` is when somebody asked for
    it to be emptied, `drained_time` when it was seen to be empty; `draining` is the node's own wish. `preempting`: the
    drain's time is over, and what still runs is stopped. `revision` counts changes of what was decided about it.
    """

    id: str
    pool: str
    projects: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    cordoned: str = ""
    message: str = ""
    drain_time: datetime | None = None
    drain_until: datetime | None = None
    drained_time: datetime | None = None
    preempting: bool = False
    revoked: bool = False
    revoke_time: datetime | None = None
    revision: int = 1
    draining: bool = False
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
    why = unschedulable(agent)
    if agent.revoked:
        return AgentState.REVOKED, why
    if agent.drain_time is not None:
        return (AgentState.DRAINED if agent.drained_time is not None else AgentState.DRAINING), why
    if agent.cordoned:
        return AgentState.CORDONED, why
    if agent.session == 0:
        return AgentState.ENROLLED, ""
    if not agent.session_open:
        return AgentState.OFFLINE, ""
    if agent.draining:
        return AgentState.DRAINING, why
    if not why and abs(agent.clock_skew_seconds) > CLOCK_SKEW_NOTICE_SECONDS:
        return AgentState.ONLINE, "CLOCK_OFF"
    return AgentState.ONLINE, why


def unschedulable(agent: Agent) -> str:
    """Why the agent gets no new work; empty when it may."""
    if agent.revoked:
        return "REVOKED"
    if agent.cordoned:
        return agent.cordoned
    if agent.drain_time is not None:
        return "DRAIN_DEADLINE_PASSED" if agent.preempting else "DRAIN_REQUESTED"
    if abs(agent.clock_skew_seconds) > CLOCK_SKEW_LIMIT_SECONDS:
        return "CLOCK_SKEW"
    if agent.draining:
        return "AGENT_DRAINING"
    return ""


# -- what people decide: each answers the agent after it, the same one where nothing changes -------------------------


def cordon(agent: Agent, message: str) -> Agent:
    """Raises: AgentRevoked."""
    _not_revoked(agent)
    if agent.cordoned:
        return agent
    return _decided(agent, cordoned=CORDONED, message=message)


def uncordon(agent: Agent) -> Agent:
    """Ends a cordon and a drain. Raises: AgentRevoked, IdentityCloned."""
    _not_revoked(agent)
    if agent.cordoned == IDENTITY_CLONED:
        raise IdentityCloned(f"{agent.name}: two processes hold its keys; enrol the node again with new ones first")
    if not agent.cordoned and agent.drain_time is None:
        return agent
    return _decided(
        agent, cordoned="", message="", drain_time=None, drain_until=None, drained_time=None, preempting=False
    )


def drain(agent: Agent, now: datetime, grace: timedelta | None, message: str) -> Agent:
    """Asked again, it sets the grace anew; what was already stopped stays stopped. Raises: AgentRevoked."""
    _not_revoked(agent)
    return _decided(
        agent,
        drain_time=agent.drain_time or now,
        drain_until=None if grace is None else now + grace,
        preempting=agent.preempting and grace is not None,
        message=message or agent.message,
    )


def revoke(agent: Agent, now: datetime, message: str) -> Agent:
    """There is no way back."""
    if agent.revoked:
        return agent
    return _decided(agent, revoked=True, revoke_time=now, message=message, session_open=False)


def renew_identity(agent: Agent) -> Agent:
    """The node has enrolled again with new keys: whoever holds the old ones is out, and every session with them.

    Raises: AgentRevoked.
    """
    _not_revoked(agent)
    return _decided(
        agent,
        cordoned=IDENTITY_RENEWED if agent.cordoned == IDENTITY_CLONED else agent.cordoned,
        session=agent.session + 1,
        session_open=False,
        instance_id="",
        past_instances=(),
    )


def _decided(agent: Agent, **changes: object) -> Agent:
    return replace(agent, revision=agent.revision + 1, **changes)  # type: ignore[arg-type]


def _not_revoked(agent: Agent) -> None:
    if agent.revoked:
        raise AgentRevoked(f"{agent.name} is revoked")


# -- what the node says -------------------------------------------------------------------------------------------------


def connect(agent: Agent, instance_id: str) -> Agent:
    """Opens the next session, which fences every older one.

    A restarted agent has a new instance id and never an old one again. An id that comes back after another was seen
    means that two processes hold one identity: the node is cordoned until somebody has looked.
    """
    cloned = instance_id != agent.instance_id and instance_id in agent.past_instances
    past = agent.past_instances
    if agent.instance_id and agent.instance_id != instance_id:
        past = (*past, agent.instance_id)[-REMEMBERED_INSTANCES:]
    # Whoever had cordoned it for another reason did not know of the clone: it counts more.
    news = cloned and agent.cordoned != IDENTITY_CLONED
    return replace(
        agent,
        session=agent.session + 1,
        session_open=True,
        instance_id=instance_id,
        past_instances=past,
        cordoned=IDENTITY_CLONED if news else agent.cordoned,
        message=_CLONED if news else agent.message,
        revision=agent.revision + news,
    )


_CLONED = "two processes take turns with one identity: its keys were copied"


def clock_skew(client_time: datetime | None, now: datetime) -> float:
    """Seconds by which the node's wall clock is ahead."""
    return (client_time - now).total_seconds() if client_time is not None else 0.0
