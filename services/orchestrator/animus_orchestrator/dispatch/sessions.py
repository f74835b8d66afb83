"""Opening a session, and bringing what an agent says it holds together with what it should hold."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit.documents.contract import GPU_UUID
from animus_orchestrator.dispatch.work import Open, SessionState, Size
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.attempt import AttemptState
from animus_orchestrator.domain.errors import AgentRevoked, AgentUnknown, CertificateSuperseded, StaleAttempt
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.scheduler import Gpu, Room
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import queue
from animus_orchestrator.store.facts import SERVICE, agent_actor, emit_agent, emit_facts
from animus_orchestrator.store.listen import SESSION

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch


_GPU_UUID = re.compile(f"(?=.{{1,128}}$){GPU_UUID}", re.ASCII)
_REPORTED = frozenset(s.value for s in (AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.FINISHING))
"""States that only the agent can have told."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    session: SessionState
    status: pb.Status
    acknowledged_seq: int


def admit(conn: Connection, agent_id: str, serial: str) -> agent_store.AgentRecord:
    """Locks the agent and checks the certificate it came with.

    The current and the next certificate are both good until the next is first used, which is now.
    Raises: AgentUnknown, AgentRevoked, CertificateSuperseded.
    """
    found = agent_store.get(conn, agent_id, lock=True)
    if found is None:
        raise AgentUnknown(f"agents/{agent_id} has not enrolled here")
    if found.agent.revoked:
        raise AgentRevoked(f"agents/{agent_id} is revoked")
    if serial == found.next_serial:
        agent_store.promote_certificate(conn, agent_id, serial)
        emit_agent(conn, "orchestrator.agent.certificate-renewed", agent_id, {"serial": serial}, agent_actor(agent_id))
    elif serial != found.serial:
        raise CertificateSuperseded(f"certificate {serial} of agents/{agent_id} is no longer in use")
    return found


def open_session(batch: Batch, work: Open, wall: datetime) -> OpenedSession:
    """Opens the agent's next session; every older one is fenced from here on."""
    conn, hello = batch.conn, work.hello
    found = admit(conn, work.agent_id, work.serial)
    agent = agents.connect(found.agent, hello.instance_id)
    skew = agents.clock_skew(_client_time(hello.status), wall)
    agent = replace(agent, draining=hello.status.draining, clock_skew_seconds=skew)
    if agent.revision != found.agent.revision:
        emit_agent(
            conn,
            "orchestrator.agent.cordoned",
            agent.id,
            {
                "reason": agent.cordoned,
                "message": agent.message,
                "instanceId": hello.instance_id,
                "otherInstanceId": found.agent.instance_id,
            },
            SERVICE,
        )
    _note_clock(conn, found.agent, agent)
    agent_store.save_session(
        conn, agent, boot_id=hello.boot_id.replace("\0", ""), claimed=hello.node.SerializeToString(deterministic=True)
    )
    graph_store.notify(conn, SESSION, [f"{agent.id}/{agent.session}"])
    session = SessionState(
        agent=agent,
        spool_id=hello.spool_id,
        platform=hello.node.platform,
        capabilities=frozenset(c.name for c in hello.node.capabilities if c.available),
        gpu_models={g.uuid: g.model for g in hello.node.gpus if _GPU_UUID.fullmatch(g.uuid)},
        size=Amount(hello.node.cpu_millis, hello.node.memory_bytes, len(hello.node.gpus)),
        attestation_key=found.attestation_key,
        attestation_not_after=found.attestation_not_after,
    )
    return OpenedSession(session, hello.status, agent_store.spool_seq(conn, agent.id, hello.spool_id))


def close(conn: Connection, session: SessionState) -> None:
    agent_store.close_session(conn, session.agent.id, session.agent.session)


def knows(session: SessionState, standing: agent_store.Standing) -> bool:
    """Whether nothing was decided about the agent that its session does not know."""
    agent = session.agent
    return (agent.cordoned, agent.drain_time, agent.preempting) == (
        standing.cordoned,
        standing.drain_time,
        standing.preempting,
    )


def take_standing(session: SessionState, standing: agent_store.Standing) -> None:
    """Takes over what was decided about the agent."""
    session.agent = replace(
        session.agent,
        cordoned=standing.cordoned,
        drain_time=standing.drain_time,
        preempting=standing.preempting,
    )
    session.unschedulable = agents.unschedulable(session.agent)


def take_status(batch: Batch, session: SessionState, status: pb.Status, wall: datetime) -> None:
    """Takes over what the agent says of itself."""
    skew = agents.clock_skew(_client_time(status), wall)
    before = session.agent
    session.agent = replace(before, draining=status.draining, clock_skew_seconds=skew)
    _note_clock(batch.conn, before, session.agent)
    session.unschedulable = agents.unschedulable(session.agent)
    session.listed = {h.attempt for h in status.held}
    session.released = {}
    for name in session.listed:
        size = session.given.pop(name, None)
        if size is not None:
            session.sizes[name] = size
    session.sizes = {n: s for n, s in session.sizes.items() if n in session.listed}
    session.stated = Room(
        agent=session.agent.id,
        pool=session.agent.pool,
        attempts=status.room.attempts,
        cpu_millis=status.room.cpu_millis,
        memory_bytes=status.room.memory_bytes,
        # Only what it announced when it came: the room may leave devices out, and adds none.
        gpus=tuple(
            Gpu(uuid, session.gpu_models[uuid])
            for uuid in dict.fromkeys(status.room.gpu_uuids)
            if uuid in session.gpu_models
        ),
    )


def seen(session: SessionState) -> agent_store.Seen:
    return agent_store.Seen(
        session.agent.id, session.agent.session, session.agent.clock_skew_seconds, session.agent.draining
    )


def reconcile(batch: Batch, spoke: list[tuple[SessionState, pb.Status, bool]], heard: Set[str]) -> None:
    """Finds attempts that an agent should hold and does not list.

    Given and never listed: its assignment was lost, or is on its way, and is sent again. Listed once, or leased to
    another process of the node: the node has lost it. That its processes are dead is not known before the lease runs
    out.

    `heard`: attempts of which this batch holds events. They may have been accepted after the Status was written, whose
    place among the events is not kept: the next one tells.
    """
    if not spoke:
        return
    by_agent = {s.agent.id: (s, fresh) for s, _, fresh in spoke}
    lost: list[queue.AttemptRow] = []
    for row in queue.live_of(batch.conn, by_agent).values():
        session, fresh = by_agent[row.agent]
        size = Size(row.cpu_millis, row.memory_bytes, row.gpu_uuids)
        if row.name in session.listed:
            session.sizes.setdefault(row.name, size)
            continue
        if row.name in heard:
            continue
        heard_of = row.listed or row.ran or row.state in _REPORTED
        if row.name in session.given and not heard_of:
            continue
        same_process = row.instance_id == session.agent.instance_id
        canceling = row.state == AttemptState.CANCELING.value
        if heard_of or not same_process or (fresh and canceling):
            session.given.pop(row.name, None)
            lost.append(row)
        else:
            session.given[row.name] = size
    if not lost:
        return
    # Whoever holds one of these runs now may be committing it: skipped here, looked at again with the next Status.
    loaded = graph_store.load(batch.conn, [r.run_uid for r in lost], skip_locked=True)
    for row in lost:
        one = loaded.get(row.run_uid)
        if one is None:
            continue
        try:
            one.graph.lose(
                row.step,
                row.number,
                batch.now,
                reason="DISOWNED",
                message=f"agents/{row.agent} no longer holds it",
                lease_until=row.lease_until if row.lease_until > batch.now else None,
            )
        except StaleAttempt:
            continue
    graph_store.save(batch.conn, loaded.values())
    emit_facts(batch.conn, loaded.values())


def _note_clock(conn: Connection, before: agents.Agent, after: agents.Agent) -> None:
    """That a node's clock went too far off, or came back, belongs in the log: nothing else tells why it had no work."""
    off = [abs(a.clock_skew_seconds) > agents.CLOCK_SKEW_LIMIT_SECONDS for a in (before, after)]
    if off[0] != off[1]:
        kind = "orchestrator.agent.clock-skewed" if off[1] else "orchestrator.agent.clock-restored"
        emit_agent(conn, kind, after.id, {"offsetSeconds": str(round(after.clock_skew_seconds))}, SERVICE)


def _client_time(status: pb.Status) -> datetime | None:
    return status.client_time.ToDatetime(UTC) if status.HasField("client_time") else None
