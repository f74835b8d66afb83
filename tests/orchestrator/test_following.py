"""Cancel, watch, logs, metrics, agents and people."""

from __future__ import annotations

import uuid

from animus.agent.v1 import dispatch_pb2 as dispatch
from animus.orchestrator.v1 import agent_pb2, run_pb2, run_stream_pb2
from animus.type.v1 import list_order_pb2
from tests.orchestrator.agents import STATE
from tests.orchestrator.samples import pipeline, single, step_yaml
from tests.orchestrator.steering import refused
from tests.orchestrator.world import until


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
    assert not any(m.run.plan or m.run.HasField("bindings") for m in seen), "with each change as large as a request"
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
