"""Pools, selectors, order and what waiting steps are told, through the real services."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from google.protobuf import field_mask_pb2

from animus.orchestrator.v1 import agent_pb2, pool_pb2, run_pb2, run_stream_pb2
from animus_kit.settings import Duration
from tests.orchestrator.quotas import limit, pool, steps, waits
from tests.orchestrator.samples import bindings, chain, single
from tests.orchestrator.world import until

# -- pools and selectors --------------------------------------------------------------------------------------------------


def test_pools_are_made_shown_changed_and_named_by_tokens(world, project, ask, agent):
    made = pool(ask, world, description="with GPUs", projects=[project])
    name = made.name.removeprefix("pools/")
    assert (made.etag, made.paused, list(made.projects), made.online_agents) == ("1", False, [project], 0)
    again = pool_pb2.CreatePoolRequest(pool_id=name)
    assert ask.refused(world.pools.CreatePool, again).reason == "POOL_EXISTS"
    agent(pool=name).connect()
    assert ask(world.pools.GetPool, pool_pb2.GetPoolRequest(name=made.name)).online_agents == 1
    update = pool_pb2.UpdatePoolRequest(
        pool=pool_pb2.Pool(name=made.name, etag="1"), update_mask=field_mask_pb2.FieldMask(paths=["projects"])
    )
    changed = ask(world.pools.UpdatePool, update)
    assert not changed.projects and changed.description == "with GPUs" and changed.etag == "2"
    assert ask.refused(world.pools.UpdatePool, update).reason == "ETAG_MISMATCH"
    missing = pool_pb2.GetPoolRequest(name="pools/nowhere")
    assert ask.refused(world.pools.GetPool, missing).reason == "POOL_NOT_FOUND"
    names = {p.name for p in ask(world.pools.ListPools, pool_pb2.ListPoolsRequest(page_size=500)).pools}
    assert {"pools/default", made.name} <= names
    token = agent_pb2.CreateJoinTokenRequest(pool="nowhere")
    assert ask.refused(world.agents.CreateJoinToken, token).reason == "POOL_NOT_FOUND"


def test_a_run_names_its_pool_and_only_one_that_is_for_it(world, project, ask, agent):
    mine, others = pool(ask, world).name[6:], pool(ask, world, projects=["projects/other"]).name[6:]
    version = world.version(project, single()).name
    for name, reason in (("nowhere", "POOL_NOT_FOUND"), (others, "POOL_NOT_ALLOWED")):
        request = run_pb2.CreateRunRequest(
            parent=project, pipeline_version=version, bindings=bindings(project), scheduling={"pool": name}
        )
        error = ask.refused(world.runs.CreateRun, request)
        assert error.reason == "RUN_NOT_PLANNABLE"
        assert [(v.field, v.reason) for v in error.violations] == [("scheduling.pool", reason)]
    wrong, right = agent(), agent(pool=mine)
    wrong.connect()
    right.connect()
    run = world.submit(project, single(), scheduling=run_pb2.Scheduling(pool=mine)).name
    (held,) = right.take()
    assert held.attempt.startswith(run + "/") and world.run(run).scheduling.pool == mine
    assert not wrong.report().assignments


def test_a_paused_pool_leases_nothing_says_so_and_goes_on(world, project, ask, agent):
    made = pool(ask, world, paused=True)
    one = agent(pool=made.name[6:])
    one.connect()
    run = world.submit(project, single(), scheduling=run_pb2.Scheduling(pool=made.name[6:])).name
    assert not one.report().assignments
    assert waits(world, run)[0] == "POOL_PAUSED"
    resume = pool_pb2.UpdatePoolRequest(
        pool=pool_pb2.Pool(name=made.name), update_mask=field_mask_pb2.FieldMask(paths=["paused"])
    )
    ask(world.pools.UpdatePool, resume)
    one.take()


def test_selectors_are_held_against_labels_of_the_token_and_never_the_nodes_claims(world, project, ask, agent):
    fast, slow = agent(labels={"disk": "fast", "zone": "a"}), agent(labels={"disk": "slow"})
    slow.connect(hostname="disk=fast")
    run = world.submit(project, single(), scheduling=run_pb2.Scheduling(node_labels={"disk": "fast"})).name
    assert not slow.report().assignments
    until(lambda: "LABELS" in waits(world, run)[1])
    reason, message = waits(world, run)
    assert reason == "UNPLACEABLE" and "no label disk=fast" in message
    fast.connect()
    (held,) = fast.take()
    assert held.attempt.startswith(run + "/")


# -- what waiting steps are told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "node", "obstacle"),
    [
        (single(cpu="64"), {}, "CPU"),
        (single(memory="100Gi"), {}, "MEMORY"),
        (single(gpu=1), {}, "GPU"),
        (single(), {"platform": "linux/arm64"}, "PLATFORM"),
        (single(), {"capabilities": []}, "CAPABILITY"),
    ],
)
def test_a_run_that_no_node_can_hold_says_so_when_planned_and_when_shown(
    world, project, ask, agent, document, node, obstacle
):
    one = agent()
    one.connect(**node)
    version = world.version(project, document)
    request = run_pb2.PlanRunRequest(parent=project, pipeline_version=version.name, bindings=bindings(project))
    (assessed,) = ask(world.runs.PlanRun, request).steps
    assert (assessed.wait_reason, assessed.eligible_agents) == ("UNPLACEABLE", 0)
    assert obstacle in {o.reason for o in assessed.obstacles} and assessed.placement_message
    run = world.submit(project, document).name
    found = world.steps(run)["only"]
    assert found.state_reason == "UNPLACEABLE"
    assert obstacle in {o.reason for o in found.obstacles}
    # Every agent that is online is counted once.
    assert sum(o.agents for o in found.obstacles) >= 1 and obstacle in found.state_message


def test_a_busy_node_is_waited_for_and_a_watcher_is_told_when_that_changes(world, project, ask, agent):
    one = agent()
    one.cpu = 1000
    one.connect()
    busy = world.submit(project, single(cpu="1")).name
    (held,) = one.take()
    run = world.submit(project, single(cpu="800m")).name
    until(lambda: waits(world, run)[0] == "WAITING_FOR_ROOM")
    assert "CPU" in waits(world, run)[1]
    stream = world.streams.WatchRun(run_stream_pb2.WatchRunRequest(name=run), **world.as_user())
    assert next(stream).steps[0].state_reason == "WAITING_FOR_ROOM"
    one.close()
    with world.engine.begin() as conn:
        conn.execute(sa.text("UPDATE agents SET session_open = false WHERE id = :a"), {"a": one.name})
    told = next(m for m in stream if m.steps and m.steps[0].state_reason == "UNPLACEABLE")
    assert told.run.name == run and not told.final
    stream.cancel()
    assert world.state(busy) in ("QUEUED", "RUNNING") and held


def test_a_chain_is_told_for_its_ready_step_only(world, project):
    run = world.submit(project, chain()).name
    found = world.steps(run)
    assert found["prepare"].state_reason == "UNPLACEABLE" and found["train"].state_reason == ""


# -- order ------------------------------------------------------------------------------------------------------------------


def test_within_a_project_priority_orders_and_between_projects_shares_do(world, project, ask, agent):
    other = world.project()
    limit(ask, world, other, weight=3)
    low = world.submit(project, steps(8), bindings=run_pb2.Bindings()).name
    high = world.submit(project, steps(2), bindings=run_pb2.Bindings(), scheduling=run_pb2.Scheduling(priority=5)).name
    theirs = world.submit(other, steps(8), bindings=run_pb2.Bindings()).name
    one = agent(projects=[project, other])
    one.slots = 8
    one.connect()
    given = [a.attempt.rsplit("/steps/")[0] for a in one.take(8)]
    # Weight 3 against 1: six of theirs and two of ours, the urgent ones.
    assert (given.count(theirs), given.count(high), given.count(low)) == (6, 2, 0)


def test_a_large_step_gets_a_node_kept_free_though_small_ones_keep_coming(world, project, ask, agent):
    """Over the real dispatch: small steps wait in plenty, and the node would never be empty by itself."""
    other = world.project()
    dispatch = world.start_dispatch(reserve_after=Duration(1))
    small = world.submit(project, steps(40, cpu="500m"), bindings=run_pb2.Bindings()).name
    one = agent(port=dispatch.port("dispatch"), projects=[project, other])
    one.cpu, one.slots = 2000, 8
    one.connect()
    one.take(4)
    large = world.submit(other, single(cpu="2")).name
    done = 0
    try:

        def turn() -> bool:
            nonlocal done
            # One ends at a time: without a reservation the next small one takes its place at once.
            oldest = next(iter(one.hold))
            if oldest.startswith(large):
                return True
            one.succeed(oldest)
            done += 1
            for new in one._new(one.report()):
                one.accept(new)
            return any(a.startswith(large) for a in one.hold)

        until(turn, 45)
    finally:
        one.close()
        dispatch.stop()
    assert done < 40 and world.state(small) == "RUNNING", "it did not have to wait for all of them"
