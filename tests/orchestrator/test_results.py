"""What agents report: refused where it is not theirs or not within the contract, retried as the pipeline says."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus_kit import pki
from tests.orchestrator.agents import CLASS, STATE
from tests.orchestrator.samples import chain, single
from tests.orchestrator.steering import attempt_of, hurry
from tests.orchestrator.world import until


def test_a_hostile_agent_has_no_effect_on_what_it_does_not_hold(world, project, agent):
    honest, hostile = agent(), agent()
    honest.connect()
    run = world.submit(project, single())
    (one,) = honest.take()
    hostile.slots = 0
    hostile.connect()
    hostile.contracts[one.attempt] = honest.contracts[one.attempt]
    hostile.hold[one.attempt] = STATE.STATE_RUNNING
    assert hostile.intent(one.attempt, hostile.report()) == "STALE"
    ack = hostile.tell(
        hostile.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING)),
        hostile.event(one.attempt, log_chunk=pb.LogChunk(data=b"forged")),
        hostile.event(one.attempt, result=hostile.result(one.attempt)),
        hostile.event("projects/x/runs/y/steps/z/attempts/1", result=hostile.result(one.attempt)),
    )
    assert len(ack.stale_attempts) == 2
    assert attempt_of(world, one.attempt).state == STATE.STATE_LEASED

    def told() -> set[str]:
        refused = world.events("orchestrator.agent.message-refused")
        return {event["reason"] for event in refused if event["resource"] == f"agents/{hostile.name}"}

    until(lambda: told() >= {"NOT_ITS_ATTEMPT", "ATTEMPT_UNKNOWN"})
    honest.running(one.attempt)
    honest.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"


@pytest.mark.parametrize(
    ("wrong", "reason", "failure"),
    [
        (lambda n, a: {"outputs": []}, "OUTPUTS_OUTSIDE_CONTRACT", CLASS.FAILURE_CLASS_INFRASTRUCTURE),
        (
            lambda n, a: {"outputs": [{"name": "other", "manifest_digest": "sha256:" + "0" * 64}]},
            "OUTPUTS_OUTSIDE_CONTRACT",
            CLASS.FAILURE_CLASS_INFRASTRUCTURE,
        ),
        (
            lambda n, a: {"outputs": [{"name": "out", "manifest_digest": "sha256:" + "0" * 64}]},
            "PROVENANCE_INVALID",
            CLASS.FAILURE_CLASS_TAINTED,
        ),
        (lambda n, a: {"key": pki.new_signing_key()}, "PROVENANCE_INVALID", CLASS.FAILURE_CLASS_TAINTED),
        (lambda n, a: {"provenance": b""}, "PROVENANCE_INVALID", CLASS.FAILURE_CLASS_TAINTED),
        (lambda n, a: {"sandbox_report": b"{}"}, "PROVENANCE_INVALID", CLASS.FAILURE_CLASS_TAINTED),
        (
            lambda n, a: {"metrics": None, "provenance": n.result(a, metrics={"x": 1.0}).provenance},
            "PROVENANCE_INVALID",
            CLASS.FAILURE_CLASS_TAINTED,
        ),
        (lambda n, a: {"exit_code": 1}, "PROVENANCE_INVALID", CLASS.FAILURE_CLASS_TAINTED),
        (lambda n, a: {"state": STATE.STATE_RUNNING}, "STATE_NOT_REPORTABLE", CLASS.FAILURE_CLASS_INFRASTRUCTURE),
    ],
)
def test_a_result_outside_its_contract_is_refused(world, project, agent, wrong, reason, failure):
    node = agent()
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    changes = wrong(node, one.attempt)
    node.succeed(one.attempt, **changes)
    ended = attempt_of(world, one.attempt)
    assert (ended.state, ended.state_reason, ended.failure_class) == (STATE.STATE_FAILED, reason, failure)
    assert not ended.provenance and not ended.sandbox_report
    assert world.state(run.name) == "FAILED"
    assert not world.steps(run.name)["only"].outputs


def test_a_user_error_is_retried_as_the_pipeline_says(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, chain(attempts=2))
    for _ in range(2):
        (one,) = node.take()
        node.running(one.attempt)
        node.fail(one.attempt)
        hurry(world, run.name)
    assert world.state(run.name) == "FAILED"
    shown = world.run(run.name)
    assert shown.state_reason == "EXIT_STATUS" and "step prepare" in shown.state_message
    assert world.step_state(run.name, "train") == "SKIPPED"
    ended = attempt_of(world, one.attempt)
    assert ended.exit_code == 1 and ended.failure_class == CLASS.FAILURE_CLASS_USER_ERROR


def test_losses_before_running_do_not_use_up_the_attempts(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single(attempts=1))
    for _ in range(3):
        (one,) = node.take()
        node.hold.pop(one.attempt)
        result = pb.AttemptResult(
            state=STATE.STATE_FAILED, failure_class=CLASS.FAILURE_CLASS_INFRASTRUCTURE, reason="IMAGE_FETCH"
        )
        node.tell(node.event(one.attempt, result=result))
        hurry(world, run.name)
    (last,) = node.take()
    node.running(last.attempt)
    node.succeed(last.attempt)
    assert last.attempt.endswith("/attempts/4") and world.state(run.name) == "SUCCEEDED"


def test_placement_keeps_to_pool_project_room_and_capability(world, project, agent):
    run = world.submit(project, single(cpu="2", memory="1Gi"))
    obstacles = {
        "another pool": agent(pool="gpu"),
        "another project": agent(projects=[world.project()]),
        "too little cpu": agent(),
        "too little memory": agent(),
        "no slot": agent(),
        "no capability": agent(),
        "another platform": agent(),
    }
    obstacles["too little cpu"].cpu = 1999
    obstacles["too little memory"].memory = (1 << 30) - 1
    obstacles["no slot"].slots = 0
    for why, node in obstacles.items():
        claims = {}
        if why == "no capability":
            claims = {"capabilities": []}
        if why == "another platform":
            claims = {"platform": "linux/arm64"}
        assert not node.connect(**claims).assignments, why
        assert not node.report().assignments, why
    assert world.step_state(run.name, "only") == "READY"
    fits = agent()
    fits.connect()
    fits.take()


def test_a_step_of_which_no_contract_can_be_made_fails_alone(world, project, agent):
    broken = world.submit(project, chain())
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE steps SET timeout_seconds = 0 WHERE name = 'prepare' AND project = :p"),
            {"p": project.removeprefix("projects/")},
        )
    sound = world.submit(project, single())
    node = agent()
    node.connect()
    (one,) = node.take()
    assert one.attempt.startswith(sound.name)
    assert world.state(broken.name) == "FAILED" and world.run(broken.name).state_reason == "CONTRACT_INVALID"
    assert world.step_state(broken.name, "train") == "SKIPPED"
