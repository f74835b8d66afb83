"""The queue's statements, and a page of runs, on PostgreSQL: what they find, and how little they look at."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from animus.orchestrator.v1 import run_pb2
from animus_kit.db.engine import transaction
from animus_orchestrator.domain.rooms import Reach
from animus_orchestrator.store import queue, quotas, runs

MANY = 20_000


@pytest.fixture(scope="module")
def pool(world):
    """A pool with a project of many ready steps, one of few large ones, and one whose run is not admitted."""
    name = world.pool(f"q{uuid.uuid4().hex[:8]}")
    with world.engine.begin() as conn:
        for project, count, cpu, admitted in (("many", MANY, 100, True), ("few", 3, 4000, True), ("late", 5, 1, False)):
            uid = conn.execute(
                sa.text(
                    "INSERT INTO runs (project, id, pipeline, pipeline_version, bindings, state, plan_digest,"
                    " policy_snapshot_digest, create_time, admitted, pool)"
                    " VALUES (:p, 'r', 'x', 'x', '', 'QUEUED', '', '', now(), :a, :pool) RETURNING uid"
                ),
                {"p": f"{name}-{project}", "a": admitted, "pool": name},
            ).scalar_one()
            conn.execute(
                sa.text(
                    "INSERT INTO steps (run_uid, name, ordinal, state, recipe, recipe_digest, environment_lock, project,"
                    " pool, admitted, cpu_millis, memory_bytes, ready_time)"
                    " SELECT :uid, 's' || i, i, 'READY', '', '', '{}', :p, :pool, :a, :cpu, 1, now() - i * interval '1 s'"
                    " FROM generate_series(1, :count) AS i"
                ),
                {"uid": uid, "p": f"{name}-{project}", "pool": name, "a": admitted, "cpu": cpu, "count": count},
            )
    yield name
    with world.engine.begin() as conn:
        conn.execute(sa.text("UPDATE steps SET state = 'CANCELED' WHERE pool = :p"), {"p": name})
        conn.execute(sa.text("UPDATE runs SET state = 'CANCELED' WHERE pool = :p"), {"p": name})


def reach(pool: str, **changes) -> Reach:
    values = {
        "cpu_millis": 8000, "memory_bytes": 1 << 30, "gpus": 0, "pools": frozenset({pool}), "projects": None,
        "capabilities": frozenset(), "labels": frozenset(),
    }  # fmt: skip
    return Reach(**{**values, **changes})


def found(world, pool: str, each: int = 4, **changes) -> dict[str, int]:
    counts: dict[str, int] = {}
    with transaction(world.engine) as conn:
        for one in queue.candidates(conn, reach(pool, **changes), each):
            project = one.need.project.rpartition("-")[2]
            counts[project] = counts.get(project, 0) + 1
    return counts


def test_each_queue_gives_its_first_steps_and_what_is_not_admitted_gives_none(world, pool):
    assert found(world, pool) == {"many": 4, "few": 3}
    assert found(world, pool, cpu_millis=100) == {"many": 4}
    assert found(world, pool, projects=frozenset({f"{pool}-few"})) == {"few": 3}
    assert found(world, pool, pools=frozenset({"default"})).keys().isdisjoint({"many", "few"})
    with transaction(world.engine) as conn:
        first = queue.candidates(conn, reach(pool), 2)
        assert [c.need.cpu_millis for c in sorted(first, key=lambda c: c.rank)[:2]] == [100, 100], "the oldest first"
        waiting = queue.starved(conn, reach(pool), timedelta(seconds=2), each=4)
    assert {c.need.project.rpartition("-")[2] for c in waiting} == {"many", "few"}


def test_a_reserved_step_is_not_leased_while_its_pool_is_paused_or_serves_others(world, pool):
    with transaction(world.engine) as conn:
        uids = {c.need.step_uid for c in queue.candidates(conn, reach(pool), 1)}
    states = {"paused = true": 0, "projects = ARRAY['other']": 0, "projects = ARRAY[:p]": 1, "paused = false": 2}
    for change, left in states.items():
        with world.engine.connect() as conn:  # rolled back
            conn.execute(
                sa.text(f"UPDATE pools SET {change} WHERE id = :pool AND CAST(:p AS text) IS NOT NULL"),
                {"pool": pool, "p": f"{pool}-few"},
            )
            assert len(queue.ready_among(conn, uids)) == left, change


def test_a_long_queue_costs_no_more_than_a_short_one(world, pool):
    """Counted in rows that PostgreSQL touched, not in time."""
    statement = queue._CANDIDATES.text
    values = {
        **queue._places(reach(pool)), "cpu_millis": 8000, "memory_bytes": 1 << 30, "gpus": 0, "capabilities": [],
        "labels": [], "each": 32,
    }  # fmt: skip
    with world.engine.connect() as conn:
        conn.execute(sa.text("SET LOCAL enable_seqscan = off"))  # its statistics may be from before there were rows
        plan = conn.execute(sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), values).scalar_one()
    touched = _rows(plan[0]["Plan"] if not isinstance(plan, str) else json.loads(plan)[0]["Plan"])
    assert touched < 1000, json.dumps(plan)[:4000]


@pytest.mark.parametrize("field", ["pipeline", "creator", "experiment"])
def test_the_runs_of_one_among_many_are_found_without_looking_at_the_others(world, project, field):
    name = project.removeprefix("projects/")
    rare = f"{project}/{field}s/rare"
    values = {"pipeline": "many", "creator": "many", "experiment": "many"}
    insert = sa.text(
        "INSERT INTO runs (project, id, pipeline, creator, experiment, pipeline_version, bindings, state, plan_digest,"
        " policy_snapshot_digest, create_time)"
        " SELECT :project, :id || i, :pipeline, :creator, :experiment, 'x', '', 'SUCCEEDED', '', '', now() - i * interval '1 s'"
        " FROM generate_series(1, :count) AS i"
    )
    asked: list[tuple[str, dict]] = []
    with world.engine.connect() as conn:  # rolled back
        conn.execute(insert, {"project": name, "id": "many", "count": MANY // 10, **values})
        values[field] = rare.rpartition("/")[2] if field == "pipeline" else rare
        conn.execute(insert, {"project": name, "id": "rare", "count": 1, **values})
        sa.event.listen(conn, "before_cursor_execute", lambda *args: asked.append(args[2:4]))
        found, _ = runs.page(conn, name, run_pb2.ListRunsRequest(**{field: rare}), ())
        statement, given = asked.pop()
        conn.execute(sa.text("SET LOCAL enable_seqscan = off"))  # its statistics are from before there were rows
        plan = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", given).scalar_one()
    assert [row.id for row in found] == ["rare1"]
    assert _rows(plan[0]["Plan"]) < 10, json.dumps(plan)[:4000]


def _rows(node: dict) -> int:
    own = 0
    if "Scan" in node["Node Type"]:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(_rows(child) for child in node.get("Plans", ()))


def test_a_project_that_somebody_else_leases_for_is_left_out_and_not_waited_for(world, project):
    name, other = project.removeprefix("projects/"), f"{project.removeprefix('projects/')}-x"
    with world.engine.begin() as conn:
        quotas.ensure(conn, name, world.parts.clock.now())
        conn.execute(sa.text("UPDATE quotas SET cpu_millis = 5 WHERE project = :p"), {"p": name})
    with world.engine.begin() as first, world.engine.begin() as second:
        assert set(quotas.standings(first, [name, other])) == {name, other}
        assert set(quotas.standings(second, [name, other])) == {other}
    with transaction(world.engine) as third:
        assert quotas.standings(third, [name])[name].limits.cpu_millis == 5
