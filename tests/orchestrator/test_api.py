"""Every RPC of the API, with good and bad input."""

from __future__ import annotations

import json
import threading
import uuid

import grpc
import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as dispatch
from animus.orchestrator.v1 import agent_pb2, pipeline_pb2, run_pb2, run_stream_pb2
from animus.type.v1 import list_order_pb2
from animus_kit.status import from_rpc_error
from tests.orchestrator.agents import STATE
from tests.orchestrator.world import IMAGE, bindings, chain, digest, pipeline, single, step_yaml, until


def refused(call, *args, **kw):
    with pytest.raises(grpc.RpcError) as error:
        call(*args, **kw)
    return from_rpc_error(error.value)


@pytest.fixture
def ask(world):
    """Calls as alice; `ask.refused` wants a refusal."""

    class Ask:
        def __call__(self, method, request):
            return method(request, **world.as_user())

        def refused(self, method, request):
            return refused(method, request, **world.as_user())

    return Ask()


# -- pipelines ----------------------------------------------------------------------------------------------------------


def create(project: str, name: str = "train", **kw) -> pipeline_pb2.CreatePipelineRequest:
    return pipeline_pb2.CreatePipelineRequest(parent=project, pipeline_id=name, **kw)


def test_pipelines_are_made_read_changed_and_listed(world, project, ask):
    request = create(project, pipeline={"display_name": "Train", "labels": {"a": "b"}}, request_id=str(uuid.uuid4()))
    made = ask(world.pipelines.CreatePipeline, request)
    assert ask(world.pipelines.CreatePipeline, request) == made, "a repeat gets the first answer"
    assert made.creator == "alice" and made.etag
    assert ask.refused(world.pipelines.CreatePipeline, create(project)).reason == "PIPELINE_EXISTS"
    request.pipeline_id = "other"
    assert ask.refused(world.pipelines.CreatePipeline, request).reason == "REQUEST_ID_REUSED"

    update = pipeline_pb2.UpdatePipelineRequest(
        pipeline={"name": made.name, "display_name": "New", "etag": made.etag}, update_mask={"paths": ["display_name"]}
    )
    changed = ask(world.pipelines.UpdatePipeline, update)
    assert changed.display_name == "New" and dict(changed.labels) == {"a": "b"} and changed.etag != made.etag
    assert ask.refused(world.pipelines.UpdatePipeline, update).reason == "ETAG_MISMATCH"
    update.update_mask.paths[0] = "creator"
    assert ask.refused(world.pipelines.UpdatePipeline, update).reason == "MASK_INVALID"
    assert ask(world.pipelines.GetPipeline, pipeline_pb2.GetPipelineRequest(name=made.name)) == changed

    for i in range(3):
        ask(world.pipelines.CreatePipeline, create(project, f"p{i}"))
    page = ask(
        world.pipelines.ListPipelines,
        pipeline_pb2.ListPipelinesRequest(parent=project, page_size=3, order_by=list_order_pb2.LIST_ORDER_NAME_ASC),
    )
    rest = ask(
        world.pipelines.ListPipelines,
        pipeline_pb2.ListPipelinesRequest(
            parent=project, page_size=3, order_by=list_order_pb2.LIST_ORDER_NAME_ASC, page_token=page.next_page_token
        ),
    )
    assert [p.name.rsplit("/", 1)[1] for p in (*page.pipelines, *rest.pipelines)] == ["p0", "p1", "p2", "train"]
    found = ask(world.pipelines.ListPipelines, pipeline_pb2.ListPipelinesRequest(parent=project, labels=["a=b"]))
    assert [p.name for p in found.pipelines] == [made.name]
    bad = pipeline_pb2.ListPipelinesRequest(parent=project, page_token="x")
    assert ask.refused(world.pipelines.ListPipelines, bad).reason == "PAGE_TOKEN_INVALID"


def test_versions_are_counted_and_equal_ones_are_one(world, project, ask):
    first = world.version(project, chain())
    assert first.name.endswith("/versions/v1") and first.document == chain()
    assert world.version(project, chain() + b"\n# a comment\n").name == first.name, "the canonical form is the same"
    second = world.version(project, single())
    assert second.name.endswith("/versions/v2")
    read = ask(world.pipelines.GetPipelineVersion, pipeline_pb2.GetPipelineVersionRequest(name=first.name))
    assert json.loads(read.canonical_document)["kind"] == "Pipeline"
    listed = ask(
        world.pipelines.ListPipelineVersions,
        pipeline_pb2.ListPipelineVersionsRequest(parent=f"{project}/pipelines/train"),
    ).pipeline_versions
    assert [v.name[-2:] for v in listed] == ["v2", "v1"] and not listed[0].document
    parent = ask(world.pipelines.GetPipeline, pipeline_pb2.GetPipelineRequest(name=f"{project}/pipelines/train"))
    assert parent.latest_version == second.name


@pytest.mark.parametrize("version", ["v3", "v0", "v01", "one", "v99999999999999999999"])
def test_a_version_that_does_not_exist(world, project, ask, version):
    world.version(project, single())
    request = pipeline_pb2.GetPipelineVersionRequest(name=f"{project}/pipelines/train/versions/{version}")
    assert ask.refused(world.pipelines.GetPipelineVersion, request).reason == "PIPELINE_VERSION_NOT_FOUND"


def test_a_broken_document_is_refused_with_its_places(world, project, ask):
    ask(world.pipelines.CreatePipeline, create(project))
    broken = single().replace(IMAGE.encode(), b"latest")
    request = pipeline_pb2.CreatePipelineVersionRequest(
        parent=f"{project}/pipelines/train", document=broken, media_type="application/yaml"
    )
    error = ask.refused(world.pipelines.CreatePipelineVersion, request)
    assert error.reason == "PIPELINE_INVALID" and error.code == "INVALID_ARGUMENT"
    assert error.violations[0].field == "document:7:14:spec.steps[0].image"
    answer = ask(
        world.pipelines.ValidatePipeline,
        pipeline_pb2.ValidatePipelineRequest(parent=project, document=broken, media_type="application/yaml"),
    )
    assert [(p.line, p.column, p.reason) for p in answer.problems] == [(7, 14, "IMAGE_NOT_PINNED")]
    good = ask(
        world.pipelines.ValidatePipeline,
        pipeline_pb2.ValidatePipelineRequest(parent=project, document=single(), media_type="application/yaml"),
    )
    assert not good.problems and good.pipeline_digest.startswith("sha256:") and good.canonical_document
    request.media_type = "text/plain"
    assert ask.refused(world.pipelines.CreatePipelineVersion, request).reason == "REQUEST_INVALID"
    request.media_type, request.parent = "application/yaml", f"{project}/pipelines/none"
    request.document = single()
    assert ask.refused(world.pipelines.CreatePipelineVersion, request).reason == "PIPELINE_NOT_FOUND"


# -- runs -----------------------------------------------------------------------------------------------------------------


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
        ({"run_id": "r" * 63}, "RUN_NOT_PLANNABLE"),
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
    assert [r.name for r in page.runs] == [second.name] and not page.runs[0].plan
    assert names(page_size=1, page_token=page.next_page_token) == [first.name]
    assert (
        ask.refused(world.runs.ListRuns, run_pb2.ListRunsRequest(parent=project, page_size=-1)).reason
        == "REQUEST_INVALID"
    )


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


# -- cancel, watch, logs ---------------------------------------------------------------------------------------------------


def test_a_cancel_waits_for_the_node_and_reaches_it_at_once(world, project, ask, agent):
    node = agent()
    node.slots = 1
    node.connect()
    run = world.submit(project, pipeline(step_yaml("a"), step_yaml("b")), bindings=run_pb2.Bindings())
    (one,) = node.take()
    node.running(one.attempt)
    node.report()
    wrong = run_pb2.CancelRunRequest(name=run.name, etag="nonsense")
    assert ask.refused(world.runs.CancelRun, wrong).reason == "ETAG_MISMATCH"
    canceling = ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=run.name, request_id=str(uuid.uuid4())))
    assert canceling.state == run_pb2.Run.STATE_CANCELING
    states = {world.step_state(run.name, s) for s in ("a", "b")}
    assert states == {"CANCELING", "CANCELED"}, "what no agent holds is canceled at once"
    pushed = node.session.expect("directive", lambda d: d.status_sequence == 0 and d.attempts)
    assert node.intent(one.attempt, pushed) == "CANCEL"
    node.hold.pop(one.attempt)
    canceled = dispatch.AttemptResult(state=STATE.STATE_CANCELED, reason="CANCELED")
    node.tell(node.event(one.attempt, result=canceled))
    assert world.state(run.name) == "CANCELED"
    again = ask(world.runs.CancelRun, run_pb2.CancelRunRequest(name=run.name))
    assert again.state == run_pb2.Run.STATE_CANCELED, "a terminal run answers as it is"
    until(lambda: [e for e in world.events("orchestrator.run.canceled") if e["resource"] == run.name])


def test_a_watcher_sees_every_change_and_the_end(world, project, agent):
    run = world.submit(project, single())
    stream = world.streams.WatchRun(run_stream_pb2.WatchRunRequest(name=run.name), **world.as_user())
    first = next(stream)
    assert first.run.state == run_pb2.Run.STATE_QUEUED and len(first.steps) == 1 and not first.final
    node = agent()
    node.connect()
    (one,) = node.take()
    node.running(one.attempt)
    node.succeed(one.attempt)
    seen = [first, *stream]
    assert seen[-1].final and seen[-1].run.state == run_pb2.Run.STATE_SUCCEEDED
    steps = [s.state for m in seen for s in m.steps]
    assert steps == sorted(steps) and steps[-1] == run_pb2.Step.STATE_SUCCEEDED
    assert seen[-1].steps[0].outputs
    late = list(world.streams.WatchRun(run_stream_pb2.WatchRunRequest(name=run.name), **world.as_user()))
    assert len(late) == 1 and late[0].final
    request = run_stream_pb2.WatchRunRequest(name=f"{project}/runs/none")
    assert refused(lambda: list(world.streams.WatchRun(request, **world.as_user()))).reason == "RUN_NOT_FOUND"


def log(node, attempt, offset, data, **kw):
    return node.event(attempt, log_chunk=dispatch.LogChunk(offset_bytes=offset, data=data, **kw))


def test_logs_are_followed_as_they_are_written_and_resumed_by_offset(world, project, agent):
    node = agent()
    node.connect()
    world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    node.tell(log(node, one.attempt, 0, b"one\n"))
    stream = world.streams.ReadLogs(run_stream_pb2.ReadLogsRequest(name=one.attempt, follow=True), **world.as_user())
    assert next(stream).data == b"one\n"
    node.tell(log(node, one.attempt, 2, b"e\ntwo\n", stderr=True))  # overlaps what is known
    second = next(stream)
    assert (second.offset_bytes, second.data) == (4, b"two\n")
    assert second.stream == run_stream_pb2.ReadLogsResponse.STREAM_STDERR
    node.tell(log(node, one.attempt, 100, b"after a gap"))
    third = next(stream)
    assert third.truncated and third.offset_bytes == 100
    node.succeed(one.attempt)
    last = list(stream)[-1]
    assert last.final and last.truncated
    request = run_stream_pb2.ReadLogsRequest(name=one.attempt, offset_bytes=6)
    parts = list(world.streams.ReadLogs(request, **world.as_user()))
    assert b"".join(p.data for p in parts) == b"o\nafter a gap" and parts[-1].final
    request = run_stream_pb2.ReadLogsRequest(name=one.attempt.replace("attempts/1", "attempts/9"))
    assert refused(lambda: list(world.streams.ReadLogs(request, **world.as_user()))).reason == "ATTEMPT_NOT_FOUND"


def test_metric_points_are_kept_in_order_and_filtered(world, project, ask, agent):
    node = agent()
    node.connect()
    world.submit(project, single())
    (one,) = node.take()
    points = [{"name": n, "step": i, "value": i / 2} for i in range(3) for n in ("loss", "lr")]
    node.tell(
        node.event(one.attempt, metric_points=dispatch.MetricPoints(points=points[:4])),
        node.event(one.attempt, metric_points=dispatch.MetricPoints(first_index=2, points=points[2:])),
        node.event(
            one.attempt,
            metric_points=dispatch.MetricPoints(first_index=6, points=[{"name": "nan", "value": float("nan")}]),
        ),
    )
    request = run_pb2.ListMetricPointsRequest(parent=one.attempt, metric="loss", page_size=2)
    page = ask(world.runs.ListMetricPoints, request)
    request.page_token = page.next_page_token
    rest = ask(world.runs.ListMetricPoints, request)
    assert [(p.name, p.step, p.value) for p in (*page.metric_points, *rest.metric_points)] == [
        ("loss", i, i / 2) for i in range(3)
    ]
    everything = ask(world.runs.ListMetricPoints, run_pb2.ListMetricPointsRequest(parent=one.attempt)).metric_points
    assert len(everything) == 6


# -- agents, people -------------------------------------------------------------------------------------------------------


def test_agents_are_listed_by_pool_and_state(world, project, ask, agent):
    pool = f"pool-{uuid.uuid4().hex[:6]}"
    online, enrolled = agent(pool=pool), agent(pool=pool)
    online.connect()

    def names(*states):
        request = agent_pb2.ListAgentsRequest(pool=pool, states=states, order_by=list_order_pb2.LIST_ORDER_NAME_ASC)
        return [a.name.removeprefix("agents/") for a in ask(world.agents.ListAgents, request).agents]

    assert names() == sorted([online.name, enrolled.name])
    assert names(agent_pb2.Agent.STATE_ONLINE) == [online.name]
    assert names(agent_pb2.Agent.STATE_ENROLLED) == [enrolled.name]
    online.close()
    until(lambda: names(agent_pb2.Agent.STATE_OFFLINE) == [online.name])
    assert ask.refused(world.agents.GetAgent, agent_pb2.GetAgentRequest(name="agents/none")).reason == "AGENT_NOT_FOUND"
    assert ask.refused(world.agents.GetAgent, agent_pb2.GetAgentRequest(name="none")).reason == "REQUEST_INVALID"
    too_long = agent_pb2.CreateJoinTokenRequest(ttl={"seconds": 3601})
    assert ask.refused(world.agents.CreateJoinToken, too_long).reason == "REQUEST_INVALID"


def test_people_need_a_token_and_the_permission(world, project):
    request = run_pb2.ListRunsRequest(parent=project)
    assert refused(world.runs.ListRuns, request, timeout=10).reason == "TOKEN_MISSING"
    assert refused(world.runs.ListRuns, request, **world.as_user("bad")).reason == "TOKEN_INVALID"
    world.access.denied.add(("mallory", "orchestrator.runs.list"))
    error = refused(world.runs.ListRuns, request, **world.as_user("mallory"))
    assert (error.code, error.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    until(lambda: [e for e in world.events("orchestrator.access.denied") if e.get("actor") == "mallory"])
