"""What time does: leases run out, backoffs pass, sessions fall silent. Every replica may do it at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql as pg

from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.log import get_logger
from animus_orchestrator.dispatch import outage, ready
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import queue, quotas, usage
from animus_orchestrator.store.facts import emit_facts
from animus_orchestrator.store.schema import dispatch_alive

log = get_logger(__name__)


class Reaper:
    """Ticks once a second. Judged by the database's clock."""

    def __init__(
        self, engine: Engine, clock: Clock, lease: timedelta, silence: timedelta, interval_seconds: float = 1.0
    ):
        self._engine = engine
        self._clock = clock
        self._lease = lease
        self._silence = silence
        self._interval = interval_seconds
        self._spare_until: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reaper")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.tick)
            except Exception:  # the database is away: nothing is lost but time
                log.exception("reaping failed")
                self._spare_until = None
            await asyncio.sleep(self._interval)

    def tick(self) -> int:
        """One round; tells how many leases were taken back."""
        with transaction(self._engine) as conn:
            self._note_alive(conn)
            agent_store.close_silent(conn, self._silence.total_seconds())
        lost = 0
        if self._clock.monotonic() >= (self._spare_until or 0.0):
            with transaction(self._engine) as conn:
                lost = self._take_back(conn)
        with transaction(self._engine) as conn:
            outage.take_back(conn)
        with transaction(self._engine) as conn:
            outage.settle(conn)
        with transaction(self._engine) as conn:
            self._let_retry(conn)
        with transaction(self._engine) as conn:
            quotas.admit_all(conn)
            usage.fold(conn)
        return lost

    def _note_alive(self, conn: Connection) -> None:
        """While nobody served, no agent could renew: leases that ran out then are spared for one more lease."""
        last = conn.execute(sa.select(sa.func.now() - dispatch_alive.c.at)).scalar_one_or_none()
        if self._spare_until is None:
            away = last is not None and last > self._lease / 2
            self._spare_until = self._clock.monotonic() + (self._lease.total_seconds() if away else 0.0)
        conn.execute(
            pg.insert(dispatch_alive)
            .values(one=True, at=sa.func.now())
            .on_conflict_do_update(index_elements=["one"], set_={"at": sa.func.now()})
        )

    def _take_back(self, conn: Connection) -> int:
        found = queue.expired(conn)
        if not found:
            return 0
        loaded = graph_store.load(conn, {e.run_uid for e in found}, skip_locked=True)
        now = graph_store.db_now(conn)
        lost = 0
        # Read again under the lock: a renewal may have come first.
        for one in queue.still_expired(conn, loaded):
            reason, message = "LEASE_EXPIRED", "its lease ran out"
            if one.lease_until is not None:
                reason, message = "OVERDUE", "it should have ended long ago"
            try:
                loaded[one.run_uid].graph.lose(
                    one.step, one.number, now, reason=reason, message=message, lease_until=one.lease_until
                )
                lost += 1
            except StaleAttempt:
                continue
        graph_store.save(conn, loaded.values())
        emit_facts(conn, loaded.values())
        if lost:
            log.warning("leases ran out", attempts=lost)
        return lost

    def _let_retry(self, conn: Connection) -> None:
        due = queue.due_retries(conn)
        if not due:
            return
        loaded = graph_store.load(conn, {uid for uid, _ in due}, skip_locked=True)
        now = graph_store.db_now(conn)
        for uid, step in due:
            one = loaded.get(uid)
            if one is not None and not one.graph.settle_canceled(step, now):
                one.graph.retry_due(step, now)
        graph_store.save(conn, loaded.values())
        ready.fill_actions(conn, loaded.values())
        emit_facts(conn, loaded.values())
