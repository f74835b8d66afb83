"""The one place where dispatch writes: a batch of work from many streams, one transaction.

The order inside a batch is fixed: sessions, events, statuses, leases, answers. Events come first, so that a commit's
successor is leased to the same agent in the same breath. Runs are locked before anything in them is written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import Event, emit_many
from animus_kit.errors import AppError
from animus_kit.log import get_logger
from animus_orchestrator.dispatch import directives, events, leasing, sessions
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.fleet import Fleet
from animus_orchestrator.dispatch.refusals import Refusal, Refusals
from animus_orchestrator.dispatch.work import (
    Close,
    EventsWork,
    Look,
    Open,
    Opened,
    SessionState,
    StatusWork,
    Work,
)
from animus_orchestrator.domain.errors import AgentRevoked, SessionSuperseded
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import queue
from animus_orchestrator.store.graph import Loaded, db_now

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long leases hold and how much an attempt may tell."""

    lease: timedelta = timedelta(seconds=60)
    lease_margin: timedelta = timedelta(seconds=15)
    """The agent's lease ends this much earlier than the server's."""
    log_bytes: int = 64 * 1024 * 1024
    metric_points: int = 100_000
    reserve_after: timedelta = timedelta(seconds=60)
    """A step that has waited this long is no longer passed by others without end."""

    @property
    def agent_lease(self) -> timedelta:
        return self.lease - self.lease_margin


_RESTORED = ("agent", "stated", "listed", "given", "doubted", "released", "sizes", "unschedulable", "closed")
"""What a batch may change of a session."""


class Batch:
    """What one transaction knows. Sessions it changes go back to what they were if it does not commit."""

    def __init__(self, conn: Connection):
        self.conn = conn
        self.events: list[Event] = []
        """For the outbox, written together at the end: a statement for all."""
        self.refused: dict[str, list[Refusal]] = {}
        """Agent id → what it said and nobody believed."""
        self.leased: dict[str, queue.Lease] = {}
        """By the attempt's name."""
        self.rows: dict[str, queue.AttemptRow] = {}
        """Attempts as this transaction leaves them, of those that it leased or ended."""
        self.graphs: dict[int, Loaded] = {}
        """Runs that it has locked, as it has written them. Whoever changes one otherwise takes it out."""
        self._now: datetime | None = None
        self._before: dict[int, tuple[SessionState, dict]] = {}

    def refuse(self, agent: str, reason: str, **what: object) -> None:
        """To be told in the log."""
        self.refused.setdefault(agent, []).append({"reason": reason, **what})

    @property
    def now(self) -> datetime:
        """The transaction's time."""
        if self._now is None:
            self._now = db_now(self.conn)
        return self._now

    @now.setter
    def now(self, told: datetime) -> None:
        self._now = told

    def touch(self, session: SessionState) -> SessionState:
        if id(session) not in self._before:
            state = {f: copy.copy(getattr(session, f)) for f in _RESTORED}
            self._before[id(session)] = (session, state)
        session.version += 1
        return session

    def restore(self) -> None:
        for session, state in self._before.values():
            for name, value in state.items():
                setattr(session, name, value)
            session.version += 1


def _seeks_work(work: Work) -> bool:
    return isinstance(work, Look) and work.only_work


class Writer:
    """Applies batches of `Work`."""

    def __init__(self, engine: Engine, contracts: Contracts, clock: Clock, limits: Limits):
        self._engine = engine
        self._contracts = contracts
        self._clock = clock
        self._limits = limits
        self._refusals = Refusals(clock)
        self._fleet = Fleet(clock, limits.reserve_after)

    def apply(self, works: Sequence[Work]) -> list[object]:
        """Answers each item, with what it asked for or with the error it is refused with."""
        batch: Batch | None = None
        try:
            with transaction(self._engine) as conn:
                batch = Batch(conn)
                answers = self._apply(batch, works)
                emit_many(conn, batch.events)
                self._refusals.tell(conn, batch.refused)
            return answers
        except BaseException:
            if batch is not None:
                batch.restore()
                self._contracts.forget(batch.leased)
                self._fleet.reset()
            raise

    def _apply(self, batch: Batch, works: Sequence[Work]) -> list[object]:
        conn = batch.conn
        answers: list[object] = [None] * len(works)
        if any(map(_seeks_work, works)) and not queue.any_ready(conn):
            # They mean every session there is, and must not have all of them looked at beside a few that have news.
            others = [work for work in works if not _seeks_work(work)]
            rest = iter(self._apply(batch, others) if others else ())
            return [{} if _seeks_work(work) else next(rest) for work in works]
        for work in works:
            if isinstance(work, Close):
                work.session.closed = True
        opening = [i for i, work in enumerate(works) if isinstance(work, Open)]
        opened: dict[int, sessions.OpenedSession] = {}
        found = sessions.open_sessions(batch, [works[i] for i in opening], self._clock.now())
        for i, one in zip(opening, found, strict=True):
            if isinstance(one, sessions.OpenedSession):
                opened[i] = one
            else:
                answers[i] = one
        refused = self._fence(batch, works)
        for i, work in enumerate(works):
            if isinstance(work, StatusWork | EventsWork) and id(work.session) in refused:
                answers[i] = refused[id(work.session)]

        told = [(i, w) for i, w in enumerate(works) if isinstance(w, EventsWork) and answers[i] is None]
        acks = events.apply(batch, [w for _, w in told], self._contracts, self._limits)

        spoke: list[tuple[SessionState, pb.Status, bool]] = [(o.session, o.status, True) for o in opened.values()]
        spoke += [
            (w.session, w.status, False)
            for i, w in enumerate(works)
            if isinstance(w, StatusWork) and answers[i] is None
        ]
        for session, status, _ in spoke:
            sessions.take_status(batch, batch.touch(session), status, self._clock.now())
            if sessions.beyond_node(session, status):
                batch.refuse(session.agent.id, "ROOM_BEYOND_NODE")
        sessions.reconcile(batch, spoke, {e.attempt for _, w in told for e in w.events.events})
        queue.renew(conn, [(h.attempt, s.agent.id) for s, status, _ in spoke for h in status.held], self._limits.lease)
        agent_store.save_seen(conn, [sessions.seen(s) for s, _, _ in spoke])
        # After the last status of the same session.
        closing = [work.session for work in works if isinstance(work, Close)]
        agent_store.close_sessions(conn, [session.agent for session in closing])
        for session in closing:
            self._fleet.leave(session)

        asking: dict[str, SessionState] = {s.agent.id: s for s, _, _ in spoke}
        asking |= {w.session.agent.id: w.session for _, w in told}
        for work in works:
            if isinstance(work, Look):
                asking |= {s.agent.id: s for s in work.sessions if id(s) not in refused and not s.closed}
        leased = leasing.lease(batch, list(asking.values()), self._contracts, self._limits, self._fleet)

        answering = self._who_hears(works, answers, opened, acks, leased)
        made = directives.make(batch, answering, self._limits)
        for i, work in enumerate(works):
            if answers[i] is not None:
                continue
            match work:
                case Open():
                    one = opened[i]
                    directive = made[one.session.agent.id]
                    directive.status_sequence = one.status.sequence
                    answers[i] = Opened(one.session, one.acknowledged_seq, directive)
                case StatusWork():
                    directive = pb.Directive()
                    directive.CopyFrom(made[work.session.agent.id])
                    directive.status_sequence = work.status.sequence
                    answers[i] = directive
                case EventsWork():
                    ack = acks[id(work)]
                    answers[i] = [pb.ControlMessage(events_ack=ack.message)]
                    if work.session.agent.id in made and (ack.ended or work.session.agent.id in leased):
                        answers[i].append(pb.ControlMessage(directive=made[work.session.agent.id]))
                case Look():
                    told_off = {s.agent.id: refused[id(s)] for s in work.sessions if id(s) in refused}
                    answers[i] = {s.agent.id: made[s.agent.id] for s in work.sessions if s.agent.id in made} | told_off
                case Close():
                    answers[i] = True
        return answers

    def _who_hears(self, works, answers, opened, acks, leased) -> list[SessionState]:
        hear: dict[str, SessionState] = {o.session.agent.id: o.session for o in opened.values()}
        for i, work in enumerate(works):
            if answers[i] is not None:
                continue
            match work:
                case StatusWork():
                    hear[work.session.agent.id] = work.session
                case EventsWork() if acks[id(work)].ended or work.session.agent.id in leased:
                    hear[work.session.agent.id] = work.session
                case Look():
                    hear |= {
                        s.agent.id: s
                        for s in work.sessions
                        if not s.closed and (not work.only_work or s.agent.id in leased)
                    }
        return list(hear.values())

    def _fence(self, batch: Batch, works: Sequence[Work]) -> dict[int, AppError]:
        """Sessions that may write no more, by identity."""
        present: dict[int, SessionState] = {}
        for work in works:
            if isinstance(work, StatusWork | EventsWork):
                present[id(work.session)] = work.session
            elif isinstance(work, Look):
                present |= {id(s): s for s in work.sessions}
        # A result is taken only of an agent that is not revoked before this is committed.
        hold = any(isinstance(w, EventsWork) and any(e.HasField("result") for e in w.events.events) for w in works)
        current = agent_store.sessions(batch.conn, [s.agent.id for s in present.values()], hold=hold)
        for standing in current.values():
            batch.now = standing.now
            break
        refused: dict[int, AppError] = {}
        for key, session in present.items():
            standing = current.get(session.agent.id)
            if standing is None or standing.revoked:
                batch.touch(session).closed = True
                refused[key] = AgentRevoked(f"{session.agent.name} is revoked")
            elif standing.session != session.agent.session:
                batch.touch(session).closed = True
                refused[key] = SessionSuperseded(f"session {standing.session} of {session.agent.name} has taken over")
            elif not sessions.knows(session, standing):
                sessions.take_standing(batch.touch(session), standing)
        return refused
