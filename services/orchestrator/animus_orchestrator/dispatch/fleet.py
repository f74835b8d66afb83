"""The rooms of all sessions of this process, kept from batch to batch, and the nodes that are kept free for large steps.

Only the writer's thread uses it. Nothing of it is stored: another process, or this one after a restart, reserves anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from animus_kit.clock import Clock
from animus_kit.log import get_logger
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain import reservations
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.reservations import Node, Reservation
from animus_orchestrator.domain.rooms import Rooms
from animus_orchestrator.domain.scheduler import Need, Room

log = get_logger(__name__)
REVIEW_SECONDS = 5.0
STALE = -1


class Fleet:
    """`offer` gives the rooms of those who ask for work; `forget` is told which of them were changed for nothing."""

    def __init__(self, clock: Clock, patience: timedelta):
        self._clock = clock
        self.patience = patience
        self._rooms = Rooms()
        self._known: dict[str, tuple[SessionState, int]] = {}
        self._reserved: dict[str, Reservation] = {}
        self._next_review = 0.0
        self.total = Amount()
        """Of all nodes, used or not."""

    def offer(self, sessions: Sequence[SessionState]) -> Rooms:
        """What these may be given. Of everybody only those are looked at that have changed since."""
        for session in sessions:
            known = self._known.get(session.agent.id)
            if known is None or known[0] is not session:
                self._drop(session.agent.id)
                self._known[session.agent.id] = (session, STALE)
                self.total += session.size
        if not self._everybody(sessions):
            return Rooms(room for s in sessions if (room := self._room(s)) is not None)
        for agent, (session, version) in self._known.items():
            if version != session.version:
                self._known[agent] = (session, session.version)
                room = self._room(session)
                if room is not None:
                    self._rooms.put(room)
                else:
                    self._rooms.remove(agent)
        return self._rooms

    def reset(self) -> None:
        """A batch failed: sessions that it opened do not exist. All are learnt anew when they ask."""
        self._rooms, self._known, self.total = Rooms(), {}, Amount()

    def leave(self, session: SessionState) -> None:
        """The session is over."""
        known = self._known.get(session.agent.id)
        if known is not None and known[0] is session:
            self._drop(session.agent.id)

    def forget(self, agents: Iterable[str]) -> None:
        """Their rooms are computed anew when they are next asked for."""
        for agent in agents:
            known = self._known.get(agent)
            if known is not None:
                self._known[agent] = (known[0], STALE)

    def _everybody(self, sessions: Collection[SessionState]) -> bool:
        return len(sessions) == len(self._known)

    def _drop(self, agent: str) -> None:
        known = self._known.pop(agent, None)
        if known is not None:
            size = known[0].size
            self.total += Amount(-size.cpu_millis, -size.memory_bytes, -size.gpus)
        self._rooms.remove(agent)

    def _room(self, session: SessionState) -> Room | None:
        room = session.room()
        reservation = self._reserved.get(session.agent.id)
        if room is None or reservation is None:
            return room
        new = [size for name, size in _held(session).items() if name not in reservation.before]
        newcomers = Amount(
            sum(s.cpu_millis for s in new), sum(s.memory_bytes for s in new), sum(len(s.gpu_uuids) for s in new)
        )
        left = reservations.beside(reservation, session.whole(), room, newcomers)
        return left if left.attempts > 0 else None

    # -- reservations -----------------------------------------------------------------------------------------------

    def reserved(self, sessions: Iterable[SessionState]) -> dict[int, Room]:
        """Steps for which a node of one of these is kept free → what is free of it now."""
        if not self._reserved:
            return {}
        found = {}
        for session in sessions:
            reservation = self._reserved.get(session.agent.id)
            room = session.room() if reservation is not None else None
            if reservation is not None and room is not None:
                found[reservation.need.step_uid] = room
        return found

    def review_due(self, sessions: Collection[SessionState]) -> bool:
        """Whether it is time to look for steps that wait for too long: only where everybody is asked."""
        if not self._everybody(sessions) or self._clock.monotonic() < self._next_review:
            return False
        self._next_review = self._clock.monotonic() + min(REVIEW_SECONDS, self.patience.total_seconds() / 4)
        return True

    def review(self, sessions: Iterable[SessionState], waiting: Collection[int], starved: Sequence[Need]) -> None:
        """Drops reservations of steps that are not among `waiting` any more, or whose node is gone, and makes one more.

        starved: steps that have waited for too long and fit nowhere, the most deserving first.
        """
        if not starved and not self._reserved:
            return
        pools = {need.pool for need in starved} | {one.need.pool for one in self._reserved.values()}
        nodes = {
            s.agent.id: _node(s)
            for s in sessions
            if s.agent.pool in pools and not s.closed and not s.unschedulable and s.stated is not None
        }
        for agent, one in list(self._reserved.items()):
            if agent not in nodes or one.need.step_uid not in waiting:
                self._free(agent)
        made = reservations.reserve(starved, nodes, self._reserved.values())
        if made is not None:
            self._reserved[made.agent] = made
            self.forget([made.agent])
            log.info("a node is kept free for a step that has waited", agent=made.agent, project=made.need.project)

    def leased(self, step_uids: Collection[int]) -> None:
        """These got their turn."""
        for agent, one in list(self._reserved.items()):
            if one.need.step_uid in step_uids:
                self._free(agent)

    def _free(self, agent: str) -> None:
        del self._reserved[agent]
        self.forget([agent])

    @property
    def reservations(self) -> dict[str, Reservation]:
        return dict(self._reserved)


def _held(session: SessionState) -> dict[str, Size]:
    """What runs there, or is on its way."""
    return {name: size for name, size in (session.sizes | session.given).items() if name not in session.released}


def _node(session: SessionState) -> Node:
    whole = session.whole()
    return Node(
        whole,
        session.room() or replace(whole, attempts=0, cpu_millis=0, memory_bytes=0, gpus=()),
        frozenset(_held(session)),
    )
