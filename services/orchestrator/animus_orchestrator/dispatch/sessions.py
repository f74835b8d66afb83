"""Opening a session, and bringing what an agent says it holds together with what it should hold."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit.documents.contract import GPU_UUID
from animus_kit.errors import AppError
from animus_orchestrator.dispatch.work import Open, SessionState, Size
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.attempt import AttemptState
from animus_orchestrator.domain.errors import AgentRevoked, AgentUnknown, CertificateSuperseded, StaleAttempt
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.scheduler import Gpu, Room
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import certificates, queue
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store.facts import SERVICE, agent_actor, emit_agent, emit_facts
from animus_orchestrator.store.listen import SESSION

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch


_GPU_UUID = re.compile(f"(?=.{{1,128}}$){GPU_UUID}", re.ASCII)
_REPORTED = frozenset(s.value for s in (AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.FINISHING))
"""States that only the agent can have told."""

MOST_CPU_MILLIS, MOST_MEMORY_BYTES = 4_096_000, 1 << 46
MOST_ATTEMPTS = 10_000
"""What one node can have: as many cores as a step may ask for, 64 TiB, and what a Status can list."""


@dataclass(slots=True)
class OpenedSession:
    session: SessionState
    status: pb.Status
    acknowledged_seq: int = 0


def admit(conn: Connection, agent_id: str, serial: str) -> agent_store.AgentRecord:
    """Locks the agent and checks the certificate it came with.

    The current and the next certificate are both good until the next is first used, which is now.
    Raises: AgentUnknown, AgentRevoked, CertificateSuperseded.
    """
    return _admitted(conn, agent_store.get(conn, agent_id, lock=True), agent_id, serial)


def _admitted(
    conn: Connection, found: agent_store.AgentRecord | None, agent_id: str, serial: str
) -> agent_store.AgentRecord:
    if found is None:
        raise AgentUnknown(f"agents/{agent_id} has not enrolled here")
    if found.agent.revoked:
        raise AgentRevoked(f"agents/{agent_id} is revoked")
    if serial == found.next_serial:
        certificates.promote(conn, agent_id, serial)
        emit_agent(conn, "orchestrator.agent.certificate-renewed", agent_id, {"serial": serial}, agent_actor(agent_id))
    elif serial != found.serial:
        raise CertificateSuperseded(f"certificate {serial} of agents/{agent_id} is no longer in use")
    return found


def open_sessions(batch: Batch, works: Sequence[Open], wall: datetime) -> list[OpenedSession | AppError]:
    """Opens each agent's next session; every older one is fenced from here on. Answers each, or why it is refused.

    A statement for all: after a restart of ours every agent comes back at once. Two of one agent follow each other.
    """
    answers: list[OpenedSession | AppError] = []
    rest = list(works)
    while rest:
        several: dict[str, Open] = {}
        for work in rest:
            if several.setdefault(work.agent_id, work) is not work:
                break
        found = agent_store.lock_many(batch.conn, several)
        for work in several.values():
            try:
                record = _admitted(batch.conn, found.get(work.agent_id), work.agent_id, work.serial)
                answers.append(_open(batch, work, record, wall))
            except AppError as error:
                answers.append(error)
        _save_opened(batch.conn, rest[: len(several)], answers[-len(several) :])
        rest = rest[len(several) :]
    return answers


def _save_opened(conn: Connection, works: Sequence[Open], answers: list[OpenedSession | AppError]) -> None:
    opened = [(w.hello, o) for w, o in zip(works, answers, strict=True) if isinstance(o, OpenedSession)]
    agent_store.save_sessions(
        conn,
        [
            (o.session.agent, hello.boot_id.replace("\0", ""), hello.node.SerializeToString(deterministic=True))
            for hello, o in opened
        ],
    )
    graph_store.notify(conn, SESSION, [f"{o.session.agent.id}/{o.session.agent.session}" for _, o in opened])
    known = agent_store.spool_seqs(conn, [(o.session.agent.id, hello.spool_id) for hello, o in opened])
    for hello, one in opened:
        one.acknowledged_seq = known.get((one.session.agent.id, hello.spool_id), 0)


def _open(batch: Batch, work: Open, found: agent_store.AgentRecord, wall: datetime) -> OpenedSession:
    conn, hello = batch.conn, work.hello
    agent = agents.connect(found.agent, hello.instance_id)
    skew = clock_skew(hello.status, wall)
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
    session = SessionState(
        agent=agent,
        spool_id=hello.spool_id,
        platform=hello.node.platform,
        capabilities=frozenset(c.name for c in hello.node.capabilities if c.available),
        gpu_models={g.uuid: g.model for g in hello.node.gpus if _GPU_UUID.fullmatch(g.uuid)},
        size=_bounded(hello.node.cpu_millis, hello.node.memory_bytes, len({g.uuid for g in hello.node.gpus})),
        attestation_key=found.attestation_key,
        attestation_not_after=found.attestation_not_after,
    )
    return OpenedSession(session, hello.status)


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
    skew = clock_skew(status, wall)
    before = session.agent
    session.agent = replace(before, draining=status.draining, clock_skew_seconds=skew)
    _note_clock(batch.conn, before, session.agent)
    session.unschedulable = agents.unschedulable(session.agent)
    session.listed = {h.attempt for h in status.held}
    for name in session.doubted:
        session.given.pop(name, None)
    session.doubted = set()
    session.released = {}
    for name in session.listed:
        size = session.given.pop(name, None)
        if size is not None:
            session.sizes[name] = size
    session.sizes = {n: s for n, s in session.sizes.items() if n in session.listed}
    session.stated = Room(
        agent=session.agent.id,
        pool=session.agent.pool,
        attempts=min(status.room.attempts, MOST_ATTEMPTS - len(session.listed)),
        # Never more than the node is said to have, whatever a Status claims.
        cpu_millis=min(status.room.cpu_millis, session.size.cpu_millis),
        memory_bytes=min(status.room.memory_bytes, session.size.memory_bytes),
        # Only what it announced when it came: the room may leave devices out, and adds none.
        gpus=tuple(
            Gpu(uuid, session.gpu_models[uuid])
            for uuid in dict.fromkeys(status.room.gpu_uuids)
            if uuid in session.gpu_models
        ),
    )


def beyond_node(session: SessionState, status: pb.Status) -> bool:
    """Whether a Status claims more than the node announced when it came."""
    room, size = status.room, session.size
    return (
        room.cpu_millis > size.cpu_millis
        or room.memory_bytes > size.memory_bytes
        or not session.gpu_models.keys() >= set(room.gpu_uuids)
    )


def _bounded(cpu_millis: int, memory_bytes: int, gpus: int) -> Amount:
    """No node has more: sums over all nodes must stay numbers that a database holds, whatever one of them claims."""
    return Amount(min(cpu_millis, MOST_CPU_MILLIS), min(memory_bytes, MOST_MEMORY_BYTES), gpus)


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
    batch.graphs.clear()
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


def clock_skew(status: pb.Status, wall: datetime) -> float:
    """Seconds by which the node's wall clock is ahead. It may say what it likes: no time of it is an error here."""
    if not status.HasField("client_time"):
        return 0.0
    try:
        return agents.clock_skew(status.client_time.ToDatetime(UTC), wall)
    except (ValueError, OverflowError):
        return agents.UNREADABLE_CLOCK_SECONDS
