"""RunService, with good and bad input."""

from __future__ import annotations

import json
import re
import threading
import uuid

import pytest
import sqlalchemy as sa

from animus.orchestrator.v1 import run_pb2, run_pb2_grpc
from animus.type.v1 import list_order_pb2
from animus_kit.documents.kinds import LABEL_PATTERN
from tests.orchestrator.samples import bindings, chain, digest, pipeline, single, step_yaml
from tests.orchestrator.world import until


def rows(world) -> dict[str, int]:
    """How many rows each table has."""
    with world.engine.connect() as conn:
        tables = conn.execute(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'orchestrator'")).scalars()
        readable = [t for t in tables if t not in ("alembic_version", "outbox", "outbox_source", "dispatch_alive")]
        return {t: conn.execute(sa.text(f'SELECT count(*) FROM "{t}"')).scalar_one() for t in readable}


def plan_request(world, project, document=None, **changes) -> run_pb2.PlanRunRequest:
    version = world.version(project, document or single())
    values = {"parent": project, "pipeline_version": version.name, "bindings": bindings(project)}
    return run_pb2.PlanRunRequest(**{**values, **changes})


def test_a_plan_writes_nothing_and_shows_everything(world, project, ask, agent):
    request = plan_request(world, project, chain())
    agent().connect()
    before = rows(world)
    planned = ask(world.runs.PlanRun, request)
    assert rows(world) == before
    assert planned.allowed and not planned.problems
    assert [(s.step, s.eligible_agents) for s in planned.steps] == [("prepare", 1), ("train", 1)]
    assert planned.steps[0].action_digest == planned.steps[0].recipe_digest
    assert planned.steps[1].action_digest == "" and planned.steps[1].recipe_digest
    assert ask(world.runs.PlanRun, request).plan == planned.plan


def test_a_plan_tells_every_problem_and_a_denial(world, project, ask):
    request = plan_request(world, project, chain())
    request.bindings.datasets[0].dataset_version = f"{project}/datasets/missing/versions/v1"
    request.bindings.code[0].code_snapshot = f"{project}/codeSnapshots/missing"
    found = ask(world.runs.PlanRun, request)
    assert {p.reason for p in found.problems} == {"DATASET_VERSION_NOT_FOUND", "CODE_SNAPSHOT_NOT_FOUND"}
    assert not found.plan and not found.allowed
    submit = run_pb2.CreateRunRequest(
        parent=project, pipeline_version=request.pipeline_version, bindings=request.bindings
    )
    error = ask.refused(world.runs.CreateRun, submit)
    assert error.reason == "RUN_NOT_PLANNABLE" and len(error.violations) == 2

    request.bindings.CopyFrom(bindings(project))
    world.policy.deny = True
    try:
        denied = ask(world.runs.PlanRun, request)
        assert not denied.allowed and denied.denial_message
        submit.bindings.CopyFrom(bindings(project))
        before = rows(world)
        assert ask.refused(world.runs.CreateRun, submit).reason == "RUN_DENIED"
        assert rows(world) == before, "a denied run does not exist"
    finally:
        world.policy.deny = False


def test_a_run_is_submitted_once_for_one_request(world, project, ask):
    version = world.version(project, chain())
    request = run_pb2.CreateRunRequest(
        parent=project, pipeline_version=version.name, bindings=bindings(project), request_id=str(uuid.uuid4())
    )
    made = ask(world.runs.CreateRun, request)
    calls = world.catalog.calls
    assert ask(world.runs.CreateRun, request) == made and world.catalog.calls == calls
    assert made.creator == "alice" and dict(made.labels) == {"team": "vision"} and made.decision
    assert made.bindings == bindings(project) and made.plan
    read = ask(world.runs.GetRun, run_pb2.GetRunRequest(name=made.name))
    assert read.plan_digest == made.plan_digest and read.policy_snapshot_digest
    event = until(lambda: [e for e in world.events("orchestrator.run.created") if e["resource"] == made.name])[0]
    assert event["planDigest"] == made.plan_digest and event["by"].startswith("a-") and event["actor"] == "alice"
    assert world.policy.actors[made.name] == event["by"], "policy's event names whom ours names"
    named = run_pb2.CreateRunRequest(
        parent=project, run_id="mine", pipeline_version=version.name, bindings=bindings(project)
    )
    ask(world.runs.CreateRun, named)
    assert ask.refused(world.runs.CreateRun, named).reason == "RUN_EXISTS"


def test_eight_submits_of_one_request_make_one_run(world, project):
    version = world.version(project, single())
    request = run_pb2.CreateRunRequest(
        parent=project, pipeline_version=version.name, bindings=bindings(project), request_id=str(uuid.uuid4())
    )
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(world.runs.CreateRun(request, **world.as_user()).name))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 8 and len(set(names)) == 1


def test_a_changed_plan_is_refused_with_the_difference(world, project, ask):
    version = world.version(project, single())
    planned = world.submit(project, single())
    request = run_pb2.CreateRunRequest(
        parent=project,
        pipeline_version=version.name,
        bindings=bindings(project),
        expected_plan_digest=planned.plan_digest,
    )
    world.catalog.salt = "changed"
    try:
        error = ask.refused(world.runs.CreateRun, request)
    finally:
        world.catalog.salt = ""
    assert (error.code, error.reason) == ("ABORTED", "PLAN_CHANGED")
    assert error.metadata["plan_digest"] != planned.plan_digest
    assert any(digest(f"{project}/datasets/digits/versions/v1")[:20] in v.description for v in error.violations)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bindings": run_pb2.Bindings()}, "RUN_NOT_PLANNABLE"),
        ({"pipeline_version": "projects/other/pipelines/a/versions/v1"}, "PIPELINE_VERSION_NOT_FOUND"),
        ({"pipeline_version": "nonsense"}, "REQUEST_INVALID"),
        ({"run_id": "Not-A-Label"}, "REQUEST_INVALID"),
        ({"expected_plan_digest": "abc"}, "REQUEST_INVALID"),
        ({"request_id": "abc"}, "REQUEST_INVALID"),
        (
            {
                "bindings": run_pb2.Bindings(
                    datasets=[{"dataset_ref": "digits", "dataset_version": "projects/other/datasets/d/versions/v1"}]
                )
            },
            "BINDINGS_INVALID",
        ),
    ],
)
def test_what_cannot_be_submitted(world, project, ask, change, reason):
    version = world.version(project, single())
    values = {"parent": project, "pipeline_version": version.name, "bindings": bindings(project)}
    assert ask.refused(world.runs.CreateRun, run_pb2.CreateRunRequest(**{**values, **change})).reason == reason


def test_names_as_long_as_a_name_may_be_make_an_artifact(world, project, agent):
    node = agent()
    node.connect()
    document = pipeline(step_yaml("s" * 63, outputs=f"[{{name: {'o' * 63}, type: data}}]"))
    run = world.submit(project, document, run_id="r" * 63, bindings=run_pb2.Bindings())
    (one,) = node.take()
    node.running(one.attempt)
    node.succeed(one.attempt)
    (output,) = world.steps(run.name)["s" * 63].outputs
    assert re.fullmatch(LABEL_PATTERN, output.artifact.removeprefix(f"{project}/artifacts/"))


def test_runs_are_listed_by_state_pipeline_label_creator_and_time(world, project, ask):
    first, second = world.submit(project, single()), world.submit(project, single())
    world.version(project, single(), pipeline="else")
    ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=first.name))

    def names(**filters):
        request = run_pb2.ListRunsRequest(parent=project, **filters)
        return [r.name for r in ask(world.runs.ListRuns, request).runs]

    assert names() == [second.name, first.name]
    assert names(order_by=list_order_pb2.LIST_ORDER_CREATE_TIME_ASC) == [first.name, second.name]
    assert names(states=[run_pb2.Run.STATE_CANCELED]) == [first.name]
    assert names(pipeline=f"{project}/pipelines/train") == [second.name, first.name]
    assert names(pipeline=f"{project}/pipelines/else") == []
    assert names(creator="bob") == [] and names(labels=["team=vision"]) == [second.name, first.name]
    assert names(min_create_time=second.create_time) == [second.name]
    page = ask(world.runs.ListRuns, run_pb2.ListRunsRequest(parent=project, page_size=1))
    assert [r.name for r in page.runs] == [second.name]
    assert not page.runs[0].plan and not page.runs[0].HasField("bindings"), "as large as a request, 500 times"
    assert names(page_size=1, page_token=page.next_page_token) == [first.name]
    assert (
        ask.refused(world.runs.ListRuns, run_pb2.ListRunsRequest(parent=project, page_size=-1)).reason
        == "REQUEST_INVALID"
    )


@pytest.mark.parametrize("neighbour", ["catalog", "policy"])
def test_a_neighbour_that_is_down_is_told_as_one(world, project, ask, neighbour):
    request = plan_request(world, project)
    nowhere = "127.0.0.1:1"
    process = world.start_serve(**{f"{neighbour}_target": nowhere})
    try:
        error = ask.refused(run_pb2_grpc.RunServiceStub(world.channel(process)).PlanRun, request)
    finally:
        process.stop()
    assert (error.code, error.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert error.retry_after and nowhere not in error.message


def test_steps_and_attempts_are_read(world, project, ask, agent):
    run = world.submit(project, chain())
    listed = ask(world.runs.ListSteps, run_pb2.ListStepsRequest(parent=run.name, page_size=1))
    rest = ask(
        world.runs.ListSteps,
        run_pb2.ListStepsRequest(parent=run.name, page_size=1, page_token=listed.next_page_token),
    )
    assert [s.name[-7:] for s in listed.steps] == ["prepare"] and rest.steps[0].dependencies == ["prepare"]
    step = ask(world.runs.GetStep, run_pb2.GetStepRequest(name=f"{run.name}/steps/prepare"))
    assert json.loads(step.action)["type"] == "animus.dev/action/v1" and step.action_digest
    node = agent()
    node.connect()
    (one,) = node.take()
    node.running(one.attempt)
    read = ask(world.runs.GetAttempt, run_pb2.GetAttemptRequest(name=one.attempt))
    assert read.contract == one.contract and read.agent == f"agents/{node.name}" and not read.HasField("exit_code")
    every = ask(world.runs.ListAttempts, run_pb2.ListAttemptsRequest(parent=f"{run.name}/steps/-")).attempts
    mine = ask(world.runs.ListAttempts, run_pb2.ListAttemptsRequest(parent=f"{run.name}/steps/prepare")).attempts
    assert [a.name for a in every] == [a.name for a in mine] == [one.attempt] and not every[0].contract
    node.succeed(one.attempt)
    ended = ask(world.runs.GetAttempt, run_pb2.GetAttemptRequest(name=one.attempt))
    assert ended.provenance and ended.sandbox_report and ended.exit_code == 0


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("GetRun", run_pb2.GetRunRequest(name="{p}/runs/none"), "RUN_NOT_FOUND"),
        ("GetRun", run_pb2.GetRunRequest(name="{p}/runs"), "REQUEST_INVALID"),
        ("CancelRun", run_pb2.CancelRunRequest(name="{p}/runs/none"), "RUN_NOT_FOUND"),
        ("GetStep", run_pb2.GetStepRequest(name="{p}/runs/none/steps/a"), "STEP_NOT_FOUND"),
        ("ListSteps", run_pb2.ListStepsRequest(parent="{p}/runs/none"), "RUN_NOT_FOUND"),
        ("GetAttempt", run_pb2.GetAttemptRequest(name="{p}/runs/none/steps/a/attempts/1"), "ATTEMPT_NOT_FOUND"),
        ("GetAttempt", run_pb2.GetAttemptRequest(name="{p}/runs/none/steps/a/attempts/x"), "ATTEMPT_NOT_FOUND"),
        ("ListAttempts", run_pb2.ListAttemptsRequest(parent="{p}/runs/none/steps/-"), "RUN_NOT_FOUND"),
        (
            "ListMetricPoints",
            run_pb2.ListMetricPointsRequest(parent="{p}/runs/none/steps/a/attempts/1"),
            "ATTEMPT_NOT_FOUND",
        ),
    ],
)
def test_what_does_not_exist(world, project, ask, method, request_, reason):
    copy = type(request_)()
    copy.CopyFrom(request_)
    field = "name" if hasattr(copy, "name") else "parent"
    setattr(copy, field, getattr(copy, field).format(p=project))
    assert ask.refused(getattr(world.runs, method), copy).reason == reason


def test_a_text_that_cannot_be_stored_is_the_callers_fault(world, project, ask):
    request = run_pb2.ListRunsRequest(parent=project, creator="a\0b")
    error = ask.refused(world.runs.ListRuns, request)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "VALUE_NOT_STORABLE")
