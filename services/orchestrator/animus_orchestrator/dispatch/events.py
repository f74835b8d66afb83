"""Rows of agents' spools: deduplicated by (agent, spool id, seq), fenced by attempt, applied in order without a hole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
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
from animus_orchestrator.store import logs, queue, quotas
from animus_orchestrator.store.facts import facts_of

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch, Limits

log = get_logger(__name__)
_STATE = run_pb2.Attempt.State
_REPORTED = {
    _STATE.STATE_PREPARING: AttemptState.PREPARING,
    _STATE.STATE_RUNNING: AttemptState.RUNNING,
    _STATE.STATE_FINISHING: AttemptState.FINISHING,
}


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
    checked: dict[tuple[str, int], Result | ResultRefused]
    """What each result comes to when it is held against its contract, by attempt and seq."""
    loaded: dict[int, graph_store.Loaded] = field(default_factory=dict)
    tallies: dict[str, logs.Tally] = field(default_factory=dict)
    chunks: list[tuple[logs.Tally, logs.Chunk]] = field(default_factory=list)
    points: list[tuple[logs.Tally, logs.Point]] = field(default_factory=list)


def apply(batch: Batch, works: Sequence[EventsWork], contracts: Contracts, limits: Limits) -> dict[int, Ack]:
    """Applies the events of several agents. Keyed by `id` of the work."""
    if not works:
        return {}
    conn = batch.conn
    spools = agent_store.lock_spools(conn, [(w.session.agent.id, w.events.spool_id) for w in works])
    fresh = [(w, e) for w in works for e in w.events.events if e.seq > spools[w.session.agent.id, w.events.spool_id]]
    told = {e.attempt for _, e in fresh if e.WhichOneof("event") == "result"}
    rows = queue.attempts_by_name(conn, {e.attempt for _, e in fresh}, documents=contracts.unknown(told))
    own = [
        (w, rows[e.attempt], e) for w, e in fresh if e.attempt in rows and rows[e.attempt].agent == w.session.agent.id
    ]
    # Checking is most of the work: it comes before the runs are locked, since a contract never changes.
    checked = {
        (row.name, e.seq): _check(w, row, e.result, contracts, batch.now)
        for w, row, e in own
        if row.live and e.WhichOneof("event") == "result"
    }
    state = _Pass(batch, contracts, limits, rows, checked)
    state.loaded = _load(conn, own, checked)

    acks: dict[int, Ack] = {}
    for work in works:
        key = (work.session.agent.id, work.events.spool_id)
        ack = Ack(pb.EventsAck(spool_id=work.events.spool_id))
        stale: dict[str, None] = {}
        if work.events.after_seq > spools[key]:
            # What lies behind a hole must wait: acknowledged, it would count as told, and so would what was lost.
            ack.message.seq, ack.message.resend = spools[key], True
            acks[id(work)] = ack
            continue
        for event in work.events.events:
            if event.seq <= spools[key]:
                continue
            spools[key] = event.seq
            try:
                if _apply_one(state, work, event):
                    row = rows[event.attempt]
                    ended = state.loaded[row.run_uid].graph.attempts[row.step, row.number]
                    batch.rows[row.name] = replace(row, state=ended.state.value)
                    batch.touch(work.session).ended(event.attempt)
                    ack.ended.append(event.attempt)
            except StaleAttempt:
                stale[event.attempt] = None
                row = state.rows.get(event.attempt)
                if event.WhichOneof("event") == "result" and row is not None and row.agent == work.session.agent.id:
                    # It was its own once. A second end of an attempt is late, or a lie: either way it belongs in the log.
                    batch.refuse(row.agent, "STALE_ATTEMPT", attempt=row.name)
        ack.message.seq = spools[key]
        ack.message.stale_attempts.extend(stale)
        acks[id(work)] = ack
    batch.graphs |= state.loaded
    agent_store.save_spools(conn, spools)
    _save(state)
    return acks


def _load(
    conn: sa.Connection,
    own: Sequence[tuple[EventsWork, queue.AttemptRow, pb.SpoolEvent]],
    checked: dict[tuple[str, int], Result | ResultRefused],
) -> dict[int, graph_store.Loaded]:
    """Of each run as little as its events need: a step that fails may end all the others, one that succeeds does not."""
    whole: set[int] = set()
    succeeding: dict[int, set[int]] = {}
    partial: dict[int, set[int]] = {}
    for _, row, event in own:
        partial.setdefault(row.run_uid, set()).add(row.step_uid)
        result = checked.get((row.name, event.seq))
        if isinstance(result, Result) and result.state is AttemptState.SUCCEEDED:
            succeeding[row.run_uid] = partial[row.run_uid]
        elif result is not None:
            whole.add(row.run_uid)
    for uid in whole:
        partial.pop(uid, None)
        succeeding.pop(uid, None)
    for uid in succeeding:
        del partial[uid]
    return graph_store.load(
        conn,
        whole | set(partial) | set(succeeding),
        partial=partial,
        succeeding=succeeding,
        names={row.step for _, row, _ in own if row.run_uid in succeeding},
    )


def _check(
    work: EventsWork, row: queue.AttemptRow, told: pb.AttemptResult, contracts: Contracts, now: datetime
) -> Result | ResultRefused:
    session = work.session
    try:
        return contracts.check(row, told, session.attestation_key, session.attestation_not_after, now)
    except ResultRefused as refused:
        return refused


def _apply_one(state: _Pass, work: EventsWork, event: pb.SpoolEvent) -> bool:
    """Tells whether the attempt ended. Raises: StaleAttempt."""
    agent = work.session.agent.id
    row = state.rows.get(event.attempt)
    if row is None or row.agent != agent:
        state.batch.refuse(agent, "NOT_ITS_ATTEMPT" if row else "ATTEMPT_UNKNOWN", attempt=event.attempt)
        raise StaleAttempt(f"{event.attempt} is not held by agents/{agent}")
    if row.run_uid not in state.loaded:
        raise StaleAttempt(f"{event.attempt} is no longer current")
    graph = state.loaded[row.run_uid].graph
    graph.current(row.step, row.number)
    match event.WhichOneof("event"):
        case "state_changed":
            reported = _REPORTED.get(event.state_changed.state)
            if reported is None:
                state.batch.refuse(agent, "STATE_NOT_REPORTABLE", attempt=event.attempt)
            else:
                graph.report(row.step, row.number, reported, state.batch.now)
        case "log_chunk":
            _log(state, row, event.log_chunk)
        case "metric_points":
            _points(state, row, event.metric_points)
        case "result":
            result = _result(state, row, event.seq)
            graph.finish(row.step, row.number, result, state.batch.now)
            refused = isinstance(state.checked[row.name, event.seq], ResultRefused)
            _end(state, row, event.result, result, refused)
            return True
    return False


def _result(state: _Pass, row: queue.AttemptRow, seq: int) -> Result:
    found = state.checked.get((row.name, seq))
    if found is None:  # it had ended when it was looked at first
        raise StaleAttempt(f"{row.name} is no longer current")
    if isinstance(found, Result):
        return found
    # The attempt is this agent's, so that it may end it; but nothing of what it claims is taken.
    state.batch.refuse(row.agent, found.reason, attempt=row.name)
    log.warning("a result was refused", extra={"attempt": row.name, "reason": found.reason})
    return Result(
        state=AttemptState.FAILED,
        failure_class=FailureClass.TAINTED if found.tainted else FailureClass.INFRASTRUCTURE,
        reason=found.reason,
        message=str(found),
    )


def _tally(state: _Pass, row: queue.AttemptRow) -> logs.Tally:
    found = state.tallies.get(row.name)
    if found is None:
        # As they are under the run's lock.
        size, points = state.loaded[row.run_uid].sizes[row.step, row.number]
        found = state.tallies[row.name] = logs.Tally(row.step_uid, row.number, size, points)
    return found


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


def _end(state: _Pass, row: queue.AttemptRow, told: pb.AttemptResult, result: Result, refused: bool) -> None:
    tally = _tally(state, row)
    if told.log_size_bytes > tally.log_size:
        tally.truncated = True
    succeeded = result.state is AttemptState.SUCCEEDED
    state.loaded[row.run_uid].proofs[row.step, row.number] = graph_store.Proof(
        # Of a success it was checked; any other would be shown as proof of what nobody verified.
        provenance=told.provenance if succeeded else None,
        sandbox_report=None if refused else told.sandbox_report or None,
        metrics=result.metrics if succeeded else {},
    )


def _save(state: _Pass) -> None:
    conn = state.batch.conn
    loaded = list(state.loaded.values())
    graph_store.save(conn, loaded)
    logs.insert_chunks(conn, state.chunks)
    logs.insert_points(conn, state.points)
    logs.save_tallies(conn, list(state.tallies.values()))
    ready.fill_actions(conn, loaded)
    state.batch.events += facts_of(conn, loaded)
    quotas.admit_after(conn, {one.graph.run.project for one in loaded if one.graph.run.terminal})
