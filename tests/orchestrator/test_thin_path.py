"""plan → create → lease → commit, over real streams and PostgreSQL."""

from __future__ import annotations

from animus.orchestrator.v1 import run_pb2
from animus_kit.documents.plan import Plan
from animus_orchestrator.domain.artifact import artifact_name
from tests.orchestrator.samples import bindings, chain, digest
from tests.orchestrator.world import until


def test_a_chain_runs_to_its_end(world, project, agent):
    version = world.version(project, chain())
    planned = world.runs.PlanRun(
        run_pb2.PlanRunRequest(parent=project, pipeline_version=version.name, bindings=bindings(project)),
        **world.as_user(),
    )
    assert not planned.problems and planned.allowed
    assert Plan.from_bytes(planned.plan).digest == planned.plan_digest
    assert planned.steps[0].eligible_agents == 0 and planned.steps[0].placement_message

    node = agent()
    node.connect()
    run = world.submit(project, chain(), expected_plan_digest=planned.plan_digest, run_id="r1")
    assert run.plan_digest == planned.plan_digest and run.state == run_pb2.Run.STATE_QUEUED

    (first,) = node.take()
    assert first.attempt == f"{project}/runs/r1/steps/prepare/attempts/1"
    node.running(first.attempt)
    assert world.state(run.name) == "RUNNING" and world.step_state(run.name, "prepare") == "RUNNING"
    node.succeed(first.attempt, metrics={"rows": 1797.0})

    (second,) = node.take()
    contract = node.contracts[second.attempt]
    prepared_name = artifact_name(project.removeprefix("projects/"), "r1", "prepare", "out")
    prepared = digest(f"{node.contracts[first.attempt].action_digest}/out")
    assert [(i.name, i.resource, i.manifest) for i in contract.inputs] == [("data", prepared_name, prepared)]
    node.running(second.attempt)
    node.succeed(second.attempt, metrics={"accuracy": 0.97})

    assert world.state(run.name) == "SUCCEEDED"
    steps = world.steps(run.name)
    assert steps["train"].action_digest == contract.action_digest
    assert steps["train"].metrics[0].value == 0.97
    assert steps["prepare"].outputs[0].manifest_digest == prepared
    commits = until(lambda: [e for e in world.events("orchestrator.attempt.committed") if e["run"] == run.name][1:])
    assert commits[0]["inputs"] == [{"mount": "data", "resource": prepared_name, "manifestDigest": prepared}]
    assert commits[0]["by"] == f"agent/{node.name}"
    until(lambda: [e for e in world.events("orchestrator.run.succeeded") if e["resource"] == run.name])
