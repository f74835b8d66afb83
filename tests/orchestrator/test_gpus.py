"""GPUs by UUID: each is one attempt's alone, for as long as that attempt's processes may live."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_kit.documents.sandbox import SandboxReport
from animus_orchestrator.store import gpus as gpu_store
from tests.orchestrator.agents import STATE, Agent
from tests.orchestrator.samples import bindings, pipeline, single, step_yaml
from tests.orchestrator.steering import attempt_of, expire, hurry
from tests.orchestrator.world import until


def gpu(number: int) -> str:
    return f"GPU-{uuid.UUID(int=number)}"


def steps(count: int, gpus: int = 1) -> bytes:
    return pipeline(*(step_yaml(f"s{n}", gpu=gpus, datasets=DIGITS if n == 0 else "[]") for n in range(count)))


DIGITS = "[{name: raw, datasetRef: digits}]"


@pytest.fixture
def node(agent):
    """A node with two GPUs, not yet connected."""
    one = agent()
    one.gpus = {gpu(1): "NVIDIA H200", gpu(2): "NVIDIA L4"}
    return one


def given(node: Agent, *assignments: pb.Assignment) -> set[str]:
    return {u for a in assignments for u in node.contracts[a.attempt].gpu_uuids or ()}


def same_node(first: Agent, **changes) -> Agent:
    """The agent's next process, or another dispatch's view of it: the same identity, nothing held."""
    other = Agent(first.world, first.name, port=changes.pop("port", 0), enroll=False)
    other.key, other.certificate, other.attestation = first.key, first.certificate, first.attestation
    other.spool_id, other.gpus = first.spool_id, first.gpus
    return other


def test_a_contract_names_the_very_devices_and_the_report_must_too(world, project, node):
    node.connect()
    run = world.submit(project, single(gpu=2))
    (one,) = node.take()
    contract = node.contracts[one.attempt]
    assert contract.gpu_uuids == (gpu(1), gpu(2)) and contract.resources.gpu == 2
    node.running(one.attempt)
    node.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"


@pytest.mark.parametrize("told", [(), (gpu(1),), (gpu(1), gpu(3))])
def test_a_result_from_other_devices_proves_nothing(world, project, node, told):
    node.connect()
    run = world.submit(project, single(gpu=2))
    (one,) = node.take()
    contract = node.contracts[one.attempt]
    node.running(one.attempt)
    honest = node.result(one.attempt)
    report = SandboxReport.from_bytes(honest.sandbox_report)
    # Signed by the node's own key, and consistent in itself: only the contract says that it is wrong.
    node.succeed(one.attempt, report_gpus=told)
    assert report.gpus == contract.gpu_uuids
    ended = attempt_of(world, one.attempt)
    assert (ended.state, ended.state_reason) == (STATE.STATE_FAILED, "PROVENANCE_INVALID")
    assert world.state(run.name) == "FAILED"


def test_no_device_is_given_twice(world, project, node):
    node.connect()
    world.submit(project, steps(3))
    two = node.take(2)
    assert given(node, *two) == {gpu(1), gpu(2)}
    assert not node.report().assignments
    node.running(two[0].attempt)
    freed = given(node, two[0])
    node.succeed(two[0].attempt)
    (third,) = node.take()
    assert given(node, third) == freed


def test_a_step_goes_only_where_its_model_is(world, project, node):
    node.gpus = {gpu(2): "NVIDIA L4"}
    node.connect()
    document = single(gpu=1).replace(b"animus/v1alpha1", b"animus/v1")
    document = document.replace(b"gpu: 1}", b"gpu: 1}\n      accelerator: {kind: gpu, model: H200}")
    run = world.submit(project, document)
    assert not node.report().assignments and world.step_state(run.name, "only") == "READY"
    plan = world.runs.PlanRun(
        run_pb2.PlanRunRequest(parent=project, pipeline_version=run.pipeline_version, bindings=bindings(project)),
        **world.as_user(),
    )
    assert "GPUs of model H200" in str(plan)
    other = same_node(node)
    node.close()
    other.gpus = {gpu(1): "NVIDIA H200"}
    other.connect()
    (one,) = other.take()
    assert given(other, one) == {gpu(1)}


def test_a_node_whose_canary_failed_gets_no_step_with_gpus(world, project, node):
    node.connect(capabilities=[c for c in node.node().capabilities if c.name != "gpu-devices"])
    run = world.submit(project, single(gpu=1))
    assert not node.report().assignments
    assert world.step_state(run.name, "only") == "READY"


def test_room_adds_no_device_that_was_not_announced(world, project, node):
    node.gpus = {gpu(1): "NVIDIA H200"}
    node.connect()
    node.gpus |= {gpu(7): "NVIDIA H200"}
    world.submit(project, steps(2))
    (one,) = node.take()
    assert given(node, one) == {gpu(1)}
    assert not node.report().assignments


def test_names_that_no_driver_gives_are_left_out(world, project, node):
    node.gpus = {"../../dev/mem": "NVIDIA H200"}
    node.connect()
    run = world.submit(project, single(gpu=1))
    assert not node.report().assignments
    assert world.step_state(run.name, "only") == "READY"


def test_a_restarted_agent_gets_no_device_that_may_still_be_in_use(world, project, node):
    node.connect()
    run = world.submit(project, single(gpu=2, attempts=2))
    (one,) = node.take()
    node.running(one.attempt)
    node.report()
    node.close()
    # The next process has lost all it held, and says that both devices are free.
    again = same_node(node)
    assert not again.connect().assignments
    until(lambda: attempt_of(world, one.attempt).state == STATE.STATE_LOST)
    second = world.submit(project, single(gpu=1))
    assert not again.report().assignments, "the lost attempt's lease has not run out"
    with world.engine.begin() as conn:
        assert gpu_store.held(conn, [node.name]) == {node.name: {gpu(1), gpu(2)}}
    expire(world, one.attempt)
    hurry(world, run.name)
    assert {a.attempt.split("/steps/")[0] for a in again.take()} <= {run.name, second.name}


def test_an_adopted_attempt_keeps_its_devices(world, project, node):
    node.connect()
    world.submit(project, steps(2))
    both = node.take(2)
    node.running(both[0].attempt)
    node.report()
    node.close()
    again = same_node(node)
    # It holds one, and states all devices as free: our record counts.
    again.hold = {both[0].attempt: STATE.STATE_RUNNING, both[1].attempt: STATE.STATE_PREPARING}
    again.connect()
    more = world.submit(project, single(gpu=1))
    assert not again.report().assignments
    assert world.step_state(more.name, "only") == "READY"


def test_two_dispatch_processes_never_give_one_device_twice(world, project, node):
    """A session that does not yet know that it is superseded, and the one that took over: both lease at once."""
    from concurrent.futures import ThreadPoolExecutor

    from animus_kit.db.engine import transaction
    from animus_orchestrator.dispatch import gpus
    from animus_orchestrator.domain.scheduler import Placement

    ours = Placement(1, node.name, (gpu(1),))
    with transaction(world.engine) as first:
        assert gpus.still_free(first, [ours]) == [ours]

        def other() -> list[Placement]:
            with transaction(world.engine) as conn:
                return gpus.still_free(conn, [ours, Placement(2, node.name)])

        # The other waits for nobody: it gives what needs no device, and leaves the rest for later.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(other).result(10) == [Placement(2, node.name)]


def test_a_superseded_session_gives_nothing_and_a_second_dispatch_sees_what_is_held(world, project, node):
    node.connect()
    world.submit(project, single(gpu=2))
    (one,) = node.take()
    node.running(one.attempt)
    process = world.start_dispatch()
    try:
        other = same_node(node, port=process.port("dispatch"))
        other.instance_id = node.instance_id
        other.hold = {one.attempt: STATE.STATE_RUNNING}
        other.connect()
        node.session.wait_end()
        run = world.submit(project, single(gpu=1))
        assert not other.report().assignments
        assert world.step_state(run.name, "only") == "READY"
        other.contracts, other.seq = dict(node.contracts), node.seq
        other.succeed(one.attempt)
        (next_one,) = other.take()
        assert given(other, next_one) <= {gpu(1), gpu(2)}
        other.close()
    finally:
        process.stop()


def test_no_history_of_attempts_ever_shared_a_device(world, project, node):
    """Many steps over two devices, some lost, some failed: intervals on one device never meet."""
    node.slots = 8
    node.connect()
    run = world.submit(project, steps(6))
    last: dict[str, str] = {}
    taken = 0
    while taken < 6:
        for one in node.take():
            (device,) = given(node, one)
            assert last.get(device) not in node.hold, "still held by another attempt"
            last[device] = one.attempt
            taken += 1
        if len(node.hold) == 2:
            oldest = next(iter(node.hold))
            node.running(oldest)
            node.succeed(oldest)
    for name in list(node.hold):
        node.running(name)
        node.succeed(name)
    assert world.state(run.name) == "SUCCEEDED"
    with world.engine.begin() as conn:
        doubled = conn.execute(
            sa.text("""
                SELECT count(*) FROM attempts a JOIN attempts b ON a.agent = b.agent AND a.name < b.name
                 AND a.gpu_uuids && b.gpu_uuids
                WHERE a.agent = :agent AND a.lease_time < b.end_time AND b.lease_time < a.end_time
            """),
            {"agent": node.name},
        ).scalar_one()
    assert doubled == 0
