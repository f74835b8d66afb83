"""Runs of the model world that live in PostgreSQL: each change is made twice, on plain data and through the store, which
loads no more than dispatch would, and both must come to the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit_many
from animus_kit.digest import sha256
from animus_kit.documents import action as actions
from animus_orchestrator.domain.attempt import Attempt
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.domain.run import RunGraph
from animus_orchestrator.domain.step import Step
from animus_orchestrator.store import graph as graph_store
from animus_orchestrator.store import queue
from animus_orchestrator.store.facts import facts_of
from animus_orchestrator.store.graph import Loaded, Proof
from animus_orchestrator.store.schema import attempts, metadata, runs, steps
from tests.orchestrator.model import World

PROJECT = "model"
OUTBOX = metadata.tables["outbox"]
DIGEST = sha256(b"x")
ACTION = actions.Action(
    image=DIGEST,
    platform="linux/amd64",
    command=("true",),
    args=(),
    environment=(),
    parameters=(),
    inputs=(),
    code=None,
    outputs=(actions.Output(name="model", type="file"),),
    threads=1,
    network=actions.NO_NETWORK,
    secrets=(),
    isolation=actions.DEFAULT_ISOLATION,
    source_date_epoch=actions.DEFAULT_SOURCE_DATE_EPOCH,
)


class Stored:
    """`keep` for a World. `compared` counts changes that were held against each other."""

    def __init__(self, engine: Engine, base: int = 0) -> None:
        self._engine = engine
        self._base = base * 1_000_000
        self._written: set[int] = set()
        self._told: Counter[tuple[str, str]] = Counter()
        self.compared = 0

    def keep(self, world: World, uid: int, what: Callable[[RunGraph], object], hint: tuple[str, str]) -> object:
        """Raises StaleAttempt where both sides do."""
        graph = world.graphs[uid]
        if uid not in self._written:
            with transaction(self._engine) as conn:
                self._insert(conn, uid, graph)
            self._written.add(uid)
        known = set(graph.attempts)
        try:
            with transaction(self._engine) as conn:
                one = self._load(conn, uid, graph, hint)
                in_store = what(one.graph)
                told = self._save(conn, one, uid, known)
        except StaleAttempt:
            # Nothing was written: the transaction is gone. The plain graph must say the same.
            what(graph)
            raise AssertionError("stale in the store, and not in memory") from None
        in_memory = what(graph)
        assert _plain(in_store) == _plain(in_memory)
        # Steps come out of the store in no special order, and so does what happens to several of them at once.
        expected = sorted((f.kind, f.step, f.attempt) for f in graph.facts)
        assert sorted(told) == expected, f"the outbox tells {told}, not {expected}"
        self._compare(uid, graph)
        self.compared += 1
        return in_memory

    def check_outbox(self) -> None:
        """Every event that was told is there once, and no other."""
        with transaction(self._engine) as conn:
            rows = conn.execute(
                sa.select(OUTBOX.c.event_type, OUTBOX.c.resource).where(
                    OUTBOX.c.project == f"projects/{PROJECT}{self._base}"
                )
            )
            assert Counter((row.event_type, row.resource) for row in rows) == self._told

    def _load(self, conn: Connection, uid: int, graph: RunGraph, hint: tuple[str, str]) -> Loaded:
        kind, name = hint
        chosen = {self._base + uid: {self._base + graph.steps[name].uid}} if name in graph.steps else {}
        if kind == "part" and chosen:
            loaded = graph_store.load(conn, chosen, partial=chosen)
        elif kind == "succeeds" and chosen:
            loaded = graph_store.load(conn, chosen, succeeding=chosen)
        else:
            loaded = graph_store.load(conn, [self._base + uid])
        return loaded[self._base + uid]

    def _save(self, conn: Connection, one: Loaded, uid: int, known: set[tuple[str, int]]) -> list[tuple[str, str, int]]:
        graph = one.graph
        fresh = graph.attempts.keys() - known
        fresh = {key for key in fresh if key in graph.changed_attempts}
        for name, number in fresh:
            one.leased[name, number] = {}
        for name, number in graph.changed_attempts:
            one.proofs[name, number] = Proof(b"proof", None, {})
        step_uids = {(name, number): graph.steps[name].uid for name, number in fresh}
        queue.insert_leases(
            conn,
            [
                queue.Lease(
                    step_uids[key], key[1], self._base + uid, f"{graph.run.name}/steps/{key[0]}/attempts/{key[1]}",
                    graph.attempts[key].agent, "", graph.attempts[key].lease_time, b"", b"",
                )
                for key in fresh
            ],
            timedelta(seconds=60),
        )  # fmt: skip
        graph_store.save(conn, [one], new_attempts=frozenset((step_uids[key], key[1]) for key in fresh))
        told = [(f.kind, f.step, f.attempt) for f in graph.facts]
        events = facts_of(conn, [one])
        assert [e.event_type for e in events] == [f"orchestrator.{kind}" for kind, _, _ in told]
        emit_many(conn, events)
        self._told.update((e.event_type, e.resource) for e in events)
        return told

    def _compare(self, uid: int, graph: RunGraph) -> None:
        with transaction(self._engine) as conn:
            (one,) = graph_store.load(conn, [self._base + uid]).values()
            every = sa.select(steps.c.name, attempts.c.number, attempts.c.state, attempts.c.ran).join_from(
                attempts, steps, steps.c.uid == attempts.c.step_uid
            )
            rows = conn.execute(every.where(attempts.c.run_uid == self._base + uid))
            seen = {(row.name, row.number): (row.state, row.ran) for row in rows}
        stored = one.graph
        for field in ("state", "reason", "message", "start_time", "end_time"):
            assert getattr(stored.run, field) == getattr(graph.run, field), f"run.{field}"
        assert {name: _plain(step) for name, step in stored.steps.items()} == {
            name: _plain(step) for name, step in graph.steps.items()
        }
        assert seen == {key: (attempt.state.value, attempt.ran) for key, attempt in graph.attempts.items()}
        for key, attempt in stored.attempts.items():
            assert _plain(attempt) == _plain(graph.attempts[key])

    def _insert(self, conn: Connection, uid: int, graph: RunGraph) -> None:
        now = next(s.ready_time for s in graph.steps.values() if s.ready_time)
        conn.execute(
            runs.insert().values(
                uid=self._base + uid, project=f"{PROJECT}{self._base}", id=graph.run.id, pipeline="p", pipeline_version="v",
                bindings=b"", state=graph.run.state.value, plan_digest=DIGEST, policy_snapshot_digest=DIGEST,
                create_time=now,
            )
        )  # fmt: skip
        for step in graph.steps.values():
            policy = step.retry
            conn.execute(
                steps.insert().values(
                    uid=self._base + step.uid, run_uid=self._base + uid, name=step.name, ordinal=step.ordinal,
                    state=step.state.value, dependencies=list(step.dependencies), recipe=b"", recipe_digest=DIGEST,
                    action=ACTION.to_bytes(), action_digest=DIGEST, environment_lock={"resource": "x", "digest": DIGEST},
                    project=f"{PROJECT}{self._base}", cpu_millis=step.cpu_millis, gpus=step.gpus, ready_time=step.ready_time,
                    retry={f: getattr(policy, f) for f in policy.__slots__},
                )
            )  # fmt: skip


def _plain(value: object) -> object:
    """Less what the store does not give back: row numbers, and outputs, which have a table of their own."""
    if isinstance(value, Step):
        skipped = {"uid", "outputs", "action_digest"}
        return {f: getattr(value, f) for f in Step.__slots__ if f not in skipped}
    if isinstance(value, Attempt):
        return {f: getattr(value, f) for f in Attempt.__slots__}
    return value
