"""Rows of agents' spools: deduplicated by (agent, spool id, seq), fenced by attempt, applied in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_kit.log import get_logger
from animus_orchestrator.dispatch import ready
from animus_orchestrator.dispatch.contracts import Contracts, ResultRefused
from animus_orchestrator.dispatch.work import EventsWork
from animus_orchestrator.domain.attempt import AttemptState, Result
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import logs, queue
from animus_orchestrator.store.facts import SERVICE, emit_agent, emit_facts
from animus_orchestrator.store.schema import attempts, steps

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch, Limits

log = get_logger(__name__)
_STATE = run_pb2.Attempt.State
_REPORTED = {
    _STATE.STATE_PREPARING: AttemptState.PREPARING,
    _STATE.STATE_RUNNING: AttemptState.RUNNING,
    _STATE.STATE_FINISHING: AttemptState.FINISHING,
}
MAX_REFUSALS_IN_LOG = 10
"""Refused messages of one agent in one batch that become events of their own."""


@dataclass
class Ack:
    """`ended`: attempts of this agent that ended here."""

    message: pb.EventsAck
    ended: list[str] = field(default_factory=list)


@dataclass
class _Pass:
    """What the events of one batch add up to."""

    batch: Batch
    contracts: Contracts
    limits: Limits
    rows: dict[str, queue.AttemptRow]
    loaded: dict[int, graph_store.Loaded]
    tallies: dict[str, logs.Tally] = field(default_factory=dict)
    chunks: list[tuple[logs.Tally, logs.Chunk]] = field(default_factory=list)
    points: list[tuple[logs.Tally, logs.Point]] = field(default_factory=list)
    ends: list[dict] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)
    refused: dict[str, list[dict]] = field(default_factory=dict)


def apply(batch: Batch, works: Sequence[EventsWork], contracts: Contracts, limits: Limits) -> dict[int, Ack]:
    """Applies the events of several agents. Keyed by `id` of the work."""
    if not works:
        return {}
    conn = batch.conn
    spools = agent_store.lock_spools(conn, [(w.session.agent.id, w.events.spool_id) for w in works])
    fresh = [(w, e) for w in works for e in w.events.events if e.seq > spools[w.session.agent.id, w.events.spool_id]]
    rows = queue.attempts_by_name(conn, {e.attempt for _, e in fresh})
    own = [(rows[e.attempt], e) for w, e in fresh if e.attempt in rows and rows[e.attempt].agent == w.session.agent.id]
    whole = {r.run_uid for r, e in own if e.WhichOneof("event") == "result"}
    partial: dict[int, set[int]] = {}
    for row, _ in own:
        if row.run_uid not in whole:
            partial.setdefault(row.run_uid, set()).add(row.step_uid)
    state = _Pass(batch, contracts, limits, rows, graph_store.load(conn, whole | set(partial), partial=partial))
    # The rows were read before the runs were locked: sizes of logs may have grown since.
    ending = {r.name for r, e in own if e.WhichOneof("event") == "result"}
    state.rows = queue.attempts_by_name(conn, rows, documents=ending)

    acks: dict[int, Ack] = {}
    for work in works:
        key = (work.session.agent.id, work.events.spool_id)
        ack = Ack(pb.EventsAck(spool_id=work.events.spool_id))
        stale: dict[str, None] = {}
        for event in work.events.events:
            if event.seq <= spools[key]:
                continue
            spools[key] = event.seq
            try:
                if _apply_one(state, work, event):
                    batch.touch(work.session).ended(event.attempt)
                    ack.ended.append(event.attempt)
            except StaleAttempt:
                stale[event.attempt] = None
        ack.message.seq = spools[key]
        ack.message.stale_attempts.extend(stale)
        acks[id(work)] = ack
    agent_store.save_spools(conn, spools)
    _save(state)
    return acks


def _apply_one(state: _Pass, work: EventsWork, event: pb.SpoolEvent) -> bool:
    """Tells whether the attempt ended. Raises: StaleAttempt."""
    agent = work.session.agent.id
    row = state.rows.get(event.attempt)
    if row is None or row.agent != agent:
        state.refused.setdefault(agent, []).append(
            {"attempt": event.attempt, "reason": "NOT_ITS_ATTEMPT" if row else "ATTEMPT_UNKNOWN"}
        )
        raise StaleAttempt(f"{event.attempt} is not held by agents/{agent}")
    if row.run_uid not in state.loaded:
        raise StaleAttempt(f"{event.attempt} is no longer current")
    graph = state.loaded[row.run_uid].graph
    graph.current(row.step, row.number)
    match event.WhichOneof("event"):
        case "state_changed":
            reported = _REPORTED.get(event.state_changed.state)
            if reported is None:
                state.refused.setdefault(agent, []).append({"attempt": event.attempt, "reason": "STATE_NOT_REPORTABLE"})
            else:
                graph.report(row.step, row.number, reported, state.batch.now)
        case "log_chunk":
            _log(state, row, event.log_chunk)
        case "metric_points":
            _points(state, row, event.metric_points)
        case "result":
            result = _checked(state, work, row, event.result)
            graph.finish(row.step, row.number, result, state.batch.now)
            _end(state, row, event.result, result)
            return True
    return False


def _checked(state: _Pass, work: EventsWork, row: queue.AttemptRow, told: pb.AttemptResult) -> Result:
    try:
        return state.contracts.check(row, told, work.session.attestation_key)
    except ResultRefused as refused:
        # The attempt is this agent's, so that it may end it; but nothing of what it claims is taken.
        state.refused.setdefault(row.agent, []).append({"attempt": row.name, "reason": refused.reason})
        log.warning("a result was refused", extra={"attempt": row.name, "reason": refused.reason})
        return Result(
            state=AttemptState.FAILED,
            failure_class=FailureClass.TAINTED if refused.tainted else FailureClass.INFRASTRUCTURE,
            reason=refused.reason,
            message=str(refused),
        )


def _tally(state: _Pass, row: queue.AttemptRow) -> logs.Tally:
    return state.tallies.setdefault(row.name, logs.Tally(row.step_uid, row.number, row.log_size, row.metric_count))


def _log(state: _Pass, row: queue.AttemptRow, chunk: pb.LogChunk) -> None:
    tally = _tally(state, row)
    kept = logs.fit(
        tally, logs.Chunk(chunk.offset_bytes, chunk.data, chunk.stderr, chunk.truncated), state.limits.log_bytes
    )
    if kept is not None:
        state.chunks.append((tally, kept))


def _points(state: _Pass, row: queue.AttemptRow, told: pb.MetricPoints) -> None:
    tally = _tally(state, row)
    for i, point in enumerate(told.points, told.first_index):
        if i < tally.metric_count or i >= state.limits.metric_points or not math.isfinite(point.value):
            continue
        if len(point.name.encode()) > 128 or "\x00" in point.name:
            continue
        tally.metric_count, tally.points_added = i + 1, True
        state.points.append((tally, logs.Point(i, point.name, point.step, point.value)))


def _end(state: _Pass, row: queue.AttemptRow, told: pb.AttemptResult, result: Result) -> None:
    tally = _tally(state, row)
    if told.log_size_bytes > tally.log_size:
        tally.truncated = True
    state.ends.append(
        {
            "b_uid": row.step_uid,
            "b_number": row.number,
            # Of a success it was checked; any other would be shown as proof of what nobody verified.
            "b_provenance": told.provenance if result.state is AttemptState.SUCCEEDED else None,
            "b_report": told.sandbox_report or None,
        }
    )
    if result.state is AttemptState.SUCCEEDED and result.metrics:
        state.metrics.append({"b_uid": row.step_uid, "b_metrics": result.metrics})


def _save(state: _Pass) -> None:
    conn = state.batch.conn
    loaded = list(state.loaded.values())
    graph_store.save(conn, loaded)
    if state.ends:
        conn.execute(
            sa.update(attempts)
            .where(attempts.c.step_uid == sa.bindparam("b_uid"), attempts.c.number == sa.bindparam("b_number"))
            .values(provenance=sa.bindparam("b_provenance"), sandbox_report=sa.bindparam("b_report")),
            state.ends,
        )
    if state.metrics:
        conn.execute(
            sa.update(steps).where(steps.c.uid == sa.bindparam("b_uid")).values(metrics=sa.bindparam("b_metrics")),
            state.metrics,
        )
    logs.insert_chunks(conn, state.chunks)
    logs.insert_points(conn, state.points)
    logs.save_tallies(conn, list(state.tallies.values()))
    ready.fill_actions(conn, loaded)
    emit_facts(conn, loaded)
    for agent, refusals in state.refused.items():
        for refusal in refusals[:MAX_REFUSALS_IN_LOG]:
            emit_agent(conn, "orchestrator.agent.message-refused", agent, refusal, SERVICE)
        if len(refusals) > MAX_REFUSALS_IN_LOG:
            emit_agent(
                conn,
                "orchestrator.agent.message-refused",
                agent,
                {"reason": "MORE", "count": len(refusals) - MAX_REFUSALS_IN_LOG},
                SERVICE,
            )
