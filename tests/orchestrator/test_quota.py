"""Quotas through the real services: what waits, what is refused, what is told, what lets go."""

from __future__ import annotations

import threading
import uuid

import sqlalchemy as sa
from google.protobuf import field_mask_pb2

from animus.orchestrator.v1 import quota_pb2, quota_pb2_grpc, run_pb2
from animus_kit.db.engine import transaction
from animus_orchestrator.store import quotas as quota_store
from animus_orchestrator.store import usage
from tests.orchestrator.agents import CLASS
from tests.orchestrator.quotas import limit, quota_of, steps, waits
from tests.orchestrator.samples import bindings, pipeline, single, step_yaml
from tests.orchestrator.world import until

GIB = 1 << 30


# -- the quota itself ---------------------------------------------------------------------------------------------------


def test_a_quota_that_was_never_written_has_no_limit_and_weight_one(world, project, ask):
    found = quota_of(ask, world, project)
    assert (found.weight, found.etag, found.name) == (1, "0", f"{project}/quota")
    assert not found.limits.ListFields() and not found.HasField("update_time")


def test_a_quota_is_shown_while_the_catalog_is_down(world, project, ask):
    process = world.start_serve(catalog_target="127.0.0.1:1")
    try:
        stub = quota_pb2_grpc.QuotaServiceStub(world.channel(process))
        found = ask(stub.GetQuota, quota_pb2.GetQuotaRequest(name=f"{project}/quota"))
    finally:
        process.stop()
    assert found.weight == 1 and not found.usage.HasField("stored_bytes")


def test_an_update_changes_what_its_mask_names_and_nothing_else(world, project, ask):
    made = limit(ask, world, project, cpu_millis=4000, active_runs=2, weight=3)
    assert (made.limits.cpu_millis, made.limits.active_runs, made.weight, made.etag) == (4000, 2, 3, "1")
    raised = limit(ask, world, project, "limits.cpu_millis", cpu_millis=8000, gpus=1)
    assert raised.limits.cpu_millis == 8000 and not raised.limits.HasField("gpus") and raised.limits.active_runs == 2
    without = limit(ask, world, project, "limits.cpu_millis")
    assert not without.limits.HasField("cpu_millis") and without.limits.active_runs == 2
    # Nothing is a limit, too; without a mask it is what is set.
    nothing = limit(ask, world, project, gpus=0)
    assert nothing.limits.HasField("gpus") and nothing.limits.gpus == 0 and nothing.weight == 3
    cleared = limit(ask, world, project, "limits")
    assert not cleared.limits.ListFields() and cleared.weight == 3
    first, *_, last = until(lambda: events_of(world, project, 5))
    assert (first["limits"], first["weight"]) == ({"cpuMillis": "4000", "activeRuns": "2"}, 3)
    assert (last["limits"], last["weight"]) == ({}, 3)


def events_of(world, project: str, count: int) -> list[dict]:
    found = [e for e in world.events("orchestrator.quota.updated") if e["resource"] == f"{project}/quota"]
    return found if len(found) >= count else []


def test_updates_are_conditional_repeatable_and_for_platform_administrators(world, project, ask):
    limit(ask, world, project, weight=2)
    name = f"{project}/quota"
    stale = quota_pb2.UpdateQuotaRequest(quota=quota_pb2.Quota(name=name, weight=4, etag="7"))
    assert ask.refused(world.quotas.UpdateQuota, stale).reason == "ETAG_MISMATCH"
    request = quota_pb2.UpdateQuotaRequest(
        quota=quota_pb2.Quota(name=name, weight=4, etag="1"), request_id=str(uuid.uuid4())
    )
    assert ask(world.quotas.UpdateQuota, request) == ask(world.quotas.UpdateQuota, request)
    unknown = quota_pb2.UpdateQuotaRequest(quota=request.quota, update_mask=field_mask_pb2.FieldMask(paths=["usage"]))
    assert ask.refused(world.quotas.UpdateQuota, unknown).reason == "MASK_INVALID"
    world.access.denied.add(("alice", "orchestrator.quotas.update"))
    try:
        assert ask.refused(world.quotas.UpdateQuota, request).reason == "PERMISSION_DENIED"
    finally:
        world.access.denied.clear()


# -- leases -------------------------------------------------------------------------------------------------------------


def test_a_step_over_quota_waits_visibly_and_goes_when_there_is_room(world, project, ask, agent):
    limit(ask, world, project, cpu_millis=2000)
    run = world.submit(project, steps(3, cpu="1"), bindings=run_pb2.Bindings()).name
    one = agent()
    one.connect()
    first, second = one.take(2)
    assert quota_of(ask, world, project).usage.cpu_millis == 2000

    def waiting() -> run_pb2.Step | None:
        (ready,) = [s for s in world.steps(run).values() if s.state == run_pb2.Step.STATE_READY]
        return ready if ready.state_reason == "QUOTA" else None

    # The picture of the nodes may be a second old, and agents of other tests may be in it.
    told = until(waiting)
    assert "cpu_millis: 2000 of 2000 in use" in told.state_message
    assert ("QUOTA", 0) in [(o.reason, o.agents) for o in told.obstacles]
    one.running(first.attempt)
    one.succeed(first.attempt)
    (third,) = one.take()
    for held in (second, third):
        one.succeed(held.attempt)
    until(lambda: world.state(run) == "SUCCEEDED")
    used = quota_of(ask, world, project).usage
    assert (used.cpu_millis, used.memory_bytes, used.attempts, used.active_runs) == (0, 0, 0, 0)


def test_raising_a_quota_lets_what_waits_go_at_once(world, project, ask, agent):
    limit(ask, world, project, memory_bytes=64 << 20)
    world.submit(project, steps(2), bindings=run_pb2.Bindings())
    one = agent()
    one.connect()
    one.take()
    limit(ask, world, project, "limits")
    one.take()


def test_what_is_lost_fails_or_is_canceled_gives_its_part_back(world, project, ask, agent):
    run = world.submit(project, steps(3, attempts=1), bindings=run_pb2.Bindings()).name
    one = agent()
    one.connect()
    first, second, third = one.take(3)
    assert quota_of(ask, world, project).usage.attempts == 3
    one.running(first.attempt)
    one.fail(first.attempt)
    one.running(second.attempt)
    one.fail(second.attempt, CLASS.FAILURE_CLASS_TIMEOUT)
    one.hold.pop(third.attempt)
    ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=run))
    one.instance_id = str(uuid.uuid4())
    one.close()
    one.connect()  # it has lost the third
    one.report()
    until(lambda: quota_of(ask, world, project).usage.attempts == 0)
    assert quota_of(ask, world, project).usage.cpu_millis == 0


def test_two_dispatch_processes_together_keep_a_quota(world, project, ask, agent):
    limit(ask, world, project, cpu_millis=3000)
    run = world.submit(project, steps(12, cpu="1"), bindings=run_pb2.Bindings()).name
    second = world.start_dispatch()
    ports = [world.dispatch.port("dispatch"), second.port("dispatch")] * 3
    nodes = [agent(port=port) for port in ports]
    most, stop = [0], threading.Event()

    def watch() -> None:
        query = sa.text(
            "SELECT coalesce(sum(s.cpu_millis), 0) FROM attempts a JOIN steps s ON s.uid = a.step_uid"
            " WHERE s.project = :p AND a.state IN ('LEASED', 'PREPARING', 'RUNNING', 'FINISHING', 'CANCELING')"
        )
        with world.engine.connect() as conn:
            while not stop.is_set():
                most[0] = max(most[0], conn.execute(query, {"p": project.removeprefix("projects/")}).scalar_one())
                conn.rollback()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for node in nodes:
            node.connect()

        def work() -> bool:
            for node in nodes:
                directive = node.report()
                for new in node._new(directive):
                    node.accept(new)
                for attempt in list(node.hold):
                    node.succeed(attempt)
            return world.state(run) == "SUCCEEDED"

        until(work, 60)
    finally:
        stop.set()
        watcher.join()
        for node in nodes:
            node.close()
        second.stop()
    assert 1000 <= most[0] <= 3000


def test_usage_is_the_sum_of_live_leases_also_after_folding(world, project, ask, agent):
    world.submit(project, steps(4, cpu="500m"), bindings=run_pb2.Bindings())
    one = agent()
    one.connect()
    held = one.take(4)
    one.succeed(held[0].attempt)
    name = project.removeprefix("projects/")
    with transaction(world.engine) as conn:
        before = usage.used(conn, [name])[name]
        usage.fold(conn)
        conn.execute(usage._FOLD, {"most": 1000})
        assert usage.used(conn, [name])[name] == before
        rows = conn.execute(sa.text("SELECT count(*) FROM usage_changes WHERE project = :p"), {"p": name}).scalar_one()
    assert rows == 1 and before.attempts == 3 and before.amount.cpu_millis == 1500


# -- runs ---------------------------------------------------------------------------------------------------------------


def test_runs_beyond_the_limit_stay_queued_with_a_reason_and_go_in_order(world, project, ask, agent):
    limit(ask, world, project, active_runs=1)
    one = agent()
    one.connect()
    first = world.submit(project, single()).name
    (held,) = one.take()
    normal = world.submit(project, single()).name
    urgent = world.submit(project, single(), scheduling=run_pb2.Scheduling(priority=10)).name
    shown = world.run(normal)
    assert (world.state(normal), shown.state_reason) == ("QUEUED", "QUOTA")
    assert shown.state_message == "1 runs of the project may be active at a time"
    assert waits(world, normal)[0] == "QUOTA"
    used = quota_of(ask, world, project).usage
    assert (used.active_runs, used.waiting_runs) == (1, 2)
    one.succeed(held.attempt)
    until(lambda: world.state(first) == "SUCCEEDED")
    (next_one,) = one.take()
    assert next_one.attempt.startswith(urgent + "/")
    assert world.run(urgent).state_reason == "" and world.run(normal).state_reason == "QUOTA"
    # A waiting run is canceled like any other, and a higher limit lets others in.
    ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=normal))
    assert world.state(normal) == "CANCELED"
    another = world.submit(project, single()).name
    assert world.run(another).state_reason == "QUOTA"
    limit(ask, world, project, active_runs=2)
    (last,) = one.take()
    assert last.attempt.startswith(another + "/")


def test_many_submits_at_once_take_the_last_place_once(world, project, ask):
    limit(ask, world, project, active_runs=2)
    version = world.version(project, single())
    request = run_pb2.CreateRunRequest(parent=project, pipeline_version=version.name, bindings=bindings(project))
    threads = [threading.Thread(target=ask, args=(world.runs.CreateRun, request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = quota_of(ask, world, project).usage
    assert (used.active_runs, used.waiting_runs) == (2, 6)


def test_the_reaper_admits_what_a_lost_notice_left_waiting(world, project, ask):
    limit(ask, world, project, active_runs=1)
    first, second = (world.submit(project, single()).name for _ in range(2))
    ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=first))
    until(lambda: world.run(second).state_reason == "")
    with transaction(world.engine) as conn:
        assert quota_store.admit(conn, project.removeprefix("projects/")) == 0


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_more_than_the_quota_could_ever_allow_is_refused_with_its_place(world, project, ask):
    limit(ask, world, project, cpu_millis=1500, memory_bytes=GIB, gpus=0)
    document = pipeline(step_yaml("small"), step_yaml("large", cpu="2", memory="2Gi"), step_yaml("fast", gpu=1))
    version = world.version(project, document)
    planned = ask(world.runs.PlanRun, run_pb2.PlanRunRequest(parent=project, pipeline_version=version.name))
    expected = {
        ("steps.large.resources.cpu", "QUOTA_EXCEEDED"),
        ("steps.large.resources.memory", "QUOTA_EXCEEDED"),
        ("steps.fast.resources.gpu", "QUOTA_EXCEEDED"),
    }
    assert {(p.path, p.reason) for p in planned.problems} == expected
    error = ask.refused(world.runs.CreateRun, run_pb2.CreateRunRequest(parent=project, pipeline_version=version.name))
    assert error.reason == "QUOTA_EXCEEDED" and error.code == "FAILED_PRECONDITION"
    assert {(v.field, v.reason) for v in error.violations} == expected
    limit(ask, world, project, "limits", active_runs=0)
    none = run_pb2.CreateRunRequest(parent=project, pipeline_version=version.name)
    assert ask.refused(world.runs.CreateRun, none).reason == "QUOTA_EXCEEDED"


def test_a_project_that_stores_more_than_it_may_submits_nothing(world, project, ask):
    limit(ask, world, project, stored_bytes=1000)
    world.catalog.stored[project] = 999
    assert quota_of(ask, world, project).usage.stored_bytes == 999
    world.submit(project, single())
    world.catalog.stored[project] = 1000
    version = world.version(project, single()).name
    request = run_pb2.CreateRunRequest(parent=project, pipeline_version=version, bindings=bindings(project))
    error = ask.refused(world.runs.CreateRun, request)
    assert error.reason == "QUOTA_EXCEEDED" and "stores 1000 bytes" in error.message


def test_a_priority_above_normal_needs_its_own_permission_and_has_bounds(world, project, ask):
    version = world.version(project, single()).name
    world.access.denied.add(("alice", "orchestrator.runs.prioritize"))
    try:
        for priority, reason in ((1, "PERMISSION_DENIED"), (101, "REQUEST_INVALID"), (-101, "REQUEST_INVALID")):
            request = run_pb2.CreateRunRequest(
                parent=project, pipeline_version=version, bindings=bindings(project), scheduling={"priority": priority}
            )
            assert ask.refused(world.runs.CreateRun, request).reason == reason
        request.scheduling.priority = -1
        assert ask(world.runs.CreateRun, request).scheduling.priority == -1
    finally:
        world.access.denied.clear()
    (denial,) = until(lambda: [e for e in world.events("orchestrator.access.denied") if e["resource"] == project])
    assert (denial["permission"], denial["actor"]) == ("orchestrator.runs.prioritize", "alice")
