"""What steps wait for, as things are now: the nodes that are online, what is free of them, quotas and pools."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from animus.orchestrator.v1 import node_pb2
from animus_kit.clock import Clock
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.scheduler import Gpu, Need, Room
from animus_orchestrator.domain.waiting import WAITING_FOR_ROOM, Node, Place, Why, explain
from animus_orchestrator.store import nodes as node_store
from animus_orchestrator.store import pools as pool_store
from animus_orchestrator.store import quotas

MOMENT = timedelta(seconds=3)
KEPT_SECONDS = 1.0
"""How old a picture of the nodes may be: it is the same for everybody who asks, and costs more than their question."""


class Outlook:
    """Thread-safe."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes: Sequence[Node] = ()
        self._whole: dict[tuple[str, int], Room] = {}
        self._until = 0.0

    def nodes(self, conn: Connection, *, fresh: bool = False) -> Sequence[Node]:
        with self._lock:
            if fresh or self._clock.monotonic() >= self._until:
                rows = node_store.online(conn)
                # What a node says of itself holds for a session.
                keys = [(row.agent.id, row.agent.session) for row in rows]
                self._whole = {key: self._whole.get(key) or _whole(row) for key, row in zip(keys, rows, strict=True)}
                self._nodes = [_node(row, self._whole[key]) for key, row in zip(keys, rows, strict=True)]
                self._until = self._clock.monotonic() + KEPT_SECONDS
            return self._nodes

    def why(self, conn: Connection, needs: Iterable[tuple[Need, bool]], *, fresh: bool = False) -> list[Why]:
        """Why each waits, or would. The second of each pair: whether its run is admitted."""
        asked = list(needs)
        if not asked:
            return []
        nodes = self.nodes(conn, fresh=fresh)
        pools = pool_store.get_many(conn, {need.pool for need, _ in asked})
        standing = quotas.standings_seen(conn, sorted({need.project for need, _ in asked}))
        known: dict[tuple[object, ...], Why] = {}
        found = []
        for need, admitted in asked:
            key = (*need.demand, admitted)
            if key not in known:
                pool = pools.get(need.pool)
                place = Place(
                    paused=pool is not None and pool.paused,
                    open_to_project=pool is not None and pool.serves(need.project),
                )
                known[key] = explain(need, nodes, standing[need.project], place, admitted=admitted)
            found.append(known[key])
        return found

    def of_steps(self, conn: Connection, rows: Iterable[Any]) -> dict[int, Why]:
        """By uid, of those rows of the table `steps` that are READY and have to wait.

        Not of one that became ready just now and is about to be leased: it waits for nothing.
        """
        ready = [row for row in rows if row.state == "READY"]
        why = self.why(conn, ((_need(r), r.admitted) for r in ready))
        young = self._clock.now() - MOMENT
        return {
            row.uid: one
            for row, one in zip(ready, why, strict=True)
            if not (one.reason == WAITING_FOR_ROOM and one.eligible and row.ready_time > young)
        }


def _need(row: Any) -> Need:
    return Need(
        row.uid, row.project, row.pool, row.cpu_millis, row.memory_bytes, row.gpus, row.gpu_model, row.platform,
        frozenset(row.capabilities), frozenset(row.selector),
    )  # fmt: skip


def _whole(row: node_store.OnlineNode) -> Room:
    it, told = row.agent, node_pb2.NodeInfo.FromString(row.claimed or b"")
    return Room(
        agent=it.id,
        pool=it.pool,
        attempts=1,
        cpu_millis=told.cpu_millis,
        memory_bytes=told.memory_bytes,
        gpus=tuple(Gpu(g.uuid, g.model) for g in told.gpus),
        projects=it.projects,
        platform=told.platform,
        capabilities=frozenset(c.name for c in told.capabilities if c.available),
        labels=frozenset(f"{key}={value}" for key, value in it.labels.items()),
        accelerated=bool(told.gpus),
    )


def _node(row: node_store.OnlineNode, whole: Room) -> Node:
    free = Room(
        agent=whole.agent,
        pool=whole.pool,
        attempts=1,
        cpu_millis=whole.cpu_millis - row.used.cpu_millis,
        memory_bytes=whole.memory_bytes - row.used.memory_bytes,
        gpus=tuple(g for g in whole.gpus if g.uuid not in row.gpus_held),
    )
    return Node(whole, free, agents.unschedulable(row.agent))
