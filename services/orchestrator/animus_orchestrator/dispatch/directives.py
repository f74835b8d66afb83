"""What an agent should hold, told whole each time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from animus.agent.v1 import dispatch_pb2 as pb
from animus_orchestrator.dispatch.work import SessionState
from animus_orchestrator.domain.attempt import RESULTS, AttemptState
from animus_orchestrator.store import queue

if TYPE_CHECKING:
    from animus_orchestrator.dispatch.writer import Batch, Limits

_INTENT = pb.AttemptDirective.Intent
_RENEWED = frozenset({_INTENT.INTENT_KEEP, _INTENT.INTENT_CANCEL, _INTENT.INTENT_PREEMPT})
_OWN_ENDS = frozenset(s.value for s in RESULTS)


def make(batch: Batch, sessions: list[SessionState], limits: Limits) -> dict[str, pb.Directive]:
    """Reads what is durable in this transaction and answers each agent. Keyed by agent id."""
    if not sessions:
        return {}
    names = {n for s in sessions for n in s.listed} | {n for s in sessions for n in s.given}
    given = {n for s in sessions for n in s.given}
    rows = queue.attempts_by_name(batch.conn, names - batch.rows.keys(), documents=given)
    rows |= {name: row for name, row in batch.rows.items() if name in names}
    # What is left, not what a lease begins with: a push renews nothing, and an assignment that is sent again is older.
    leases = {name: max(row.lease_until - batch.now - limits.lease_margin, timedelta(0)) for name, row in rows.items()}
    for session in sessions:
        _note_foreign(batch, session, rows)
    return {s.agent.id: _directive(batch.touch(s), rows, leases) for s in sessions}


def _note_foreign(batch: Batch, session: SessionState, rows: dict[str, queue.AttemptRow]) -> None:
    """A node that says it holds what it was never given: one line of the log for all of it, and none for saying so again."""
    agent = session.agent.id
    foreign = frozenset(n for n in session.listed if (row := rows.get(n)) is None or row.agent != agent)
    if foreign - session.foreign:
        batch.refuse(agent, "LISTS_FOREIGN_ATTEMPTS", attempts=str(len(foreign)), attempt=min(foreign))
    session.foreign = foreign


def _directive(session: SessionState, rows: dict[str, queue.AttemptRow], leases: dict[str, timedelta]) -> pb.Directive:
    out = pb.Directive(unschedulable_reason=session.unschedulable)
    for name in sorted(session.listed):
        row = rows.get(name)
        intent = _intent(session, row)
        item = out.attempts.add(attempt=name, intent=intent)
        if intent in _RENEWED:
            item.lease_duration.FromTimedelta(leases[name])
    for name in sorted(session.given):
        row = rows.get(name)
        if row is None or not row.live or row.agent != session.agent.id:
            # Ended before the agent ever listed it; if the assignment did arrive, its next Status is told STALE.
            if row is not None and row.state == AttemptState.LOST.value:
                # And then it stands still there, and takes room: until that Status nobody knows.
                session.doubted.add(name)
            else:
                session.ended(name)
        elif row.state == AttemptState.CANCELING.value:
            out.attempts.add(attempt=name, intent=_INTENT.INTENT_CANCEL).lease_duration.FromTimedelta(leases[name])
        elif leases[name]:
            out.assignments.add(attempt=name, contract=row.contract, grant=row.grant, lease_duration=leases[name])
    return out


def _intent(session: SessionState, row: queue.AttemptRow | None) -> int:
    if row is None or row.agent != session.agent.id:
        return _INTENT.INTENT_STALE
    if row.live:
        if row.state == AttemptState.CANCELING.value:
            return _INTENT.INTENT_CANCEL
        return _INTENT.INTENT_PREEMPT if session.agent.preempting else _INTENT.INTENT_KEEP
    # Ended by its own report: durable. Ended by us (LOST): whatever it still does is stale.
    return _INTENT.INTENT_FORGET if row.state in _OWN_ENDS else _INTENT.INTENT_STALE
