"""Sessions, leases and fencing, as agents see them."""

from __future__ import annotations

import time
import uuid

import grpc
import psycopg
import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import agent_pb2, run_pb2
from animus_kit.status import from_rpc_error
from tests.orchestrator.agents import CLASS, STATE, Agent
from tests.orchestrator.samples import chain, pipeline, single, step_yaml
from tests.orchestrator.steering import attempt_of, expire, hurry
from tests.orchestrator.world import until


def test_a_lease_that_ran_out_goes_to_another_agent_and_the_first_one_is_stale(world, project, agent):
    first = agent()
    first.connect()
    run = world.submit(project, single(attempts=2))
    (old,) = first.take()
    first.running(old.attempt)
    first.slots = 1
    first.report()
    expire(world, old.attempt)
    until(lambda: attempt_of(world, old.attempt).state == STATE.STATE_LOST)
    lost = attempt_of(world, old.attempt)
    assert lost.failure_class == CLASS.FAILURE_CLASS_LOST_NODE and lost.state_reason == "LEASE_EXPIRED"

    second = agent()
    second.connect()
    (new,) = second.take()
    assert new.attempt.endswith("/attempts/2")

    assert first.intent(old.attempt, first.report()) == "STALE"
    ack = first.tell(
        first.event(old.attempt, log_chunk=pb.LogChunk(data=b"late")),
        first.event(old.attempt, result=first.result(old.attempt)),
    )
    assert list(ack.stale_attempts) == [old.attempt]
    assert world.step_state(run.name, "only") in ("LEASED", "RUNNING")
    assert attempt_of(world, old.attempt).log_size_bytes == 0

    second.running(new.attempt)
    second.succeed(new.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    # A replayed result of the committed attempt has no effect either.
    assert second.tell(second.event(new.attempt, result=second.result(new.attempt))).stale_attempts
    assert len([e for e in world.events("orchestrator.attempt.committed") if e["run"] == run.name]) <= 1


def test_an_attempt_that_never_ends_is_taken_back_however_it_renews(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single(attempts=1))
    (one,) = node.take()
    node.running(one.attempt)
    node.report()
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE attempts SET lease_time = now() - interval '31 hours' WHERE name = :n"), {"n": one.attempt}
        )
    until(lambda: attempt_of(world, one.attempt).state == STATE.STATE_LOST)
    assert attempt_of(world, one.attempt).state_reason == "OVERDUE"
    assert node.intent(one.attempt, node.report()) == "STALE"
    assert world.state(run.name) == "FAILED"


def test_events_sent_twice_have_their_effect_once(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    events = [
        node.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING)),
        node.event(one.attempt, log_chunk=pb.LogChunk(offset_bytes=0, data=b"hello ")),
        node.event(one.attempt, log_chunk=pb.LogChunk(offset_bytes=6, data=b"world")),
        node.event(one.attempt, metric_points=pb.MetricPoints(points=[{"name": "loss", "step": 1, "value": 0.5}])),
        node.event(one.attempt, result=node.result(one.attempt)),
    ]
    node.tell(*events)
    node.tell(*events)
    node.tell(*events[1:3])
    assert world.state(run.name) == "SUCCEEDED"
    assert attempt_of(world, one.attempt).log_size_bytes == 11
    request = run_pb2.ListMetricPointsRequest(parent=one.attempt)
    assert len(world.runs.ListMetricPoints(request, **world.as_user()).metric_points) == 1
    until(lambda: [e for e in world.events("orchestrator.run.succeeded") if e["resource"] == run.name])
    assert len([e for e in world.events("orchestrator.attempt.committed") if e["run"] == run.name]) == 1


def test_an_assignment_is_sent_again_until_it_is_listed(world, project, agent):
    node = agent()
    node.connect()
    world.submit(project, single())
    lost = node.session.expect("directive", lambda d: d.assignments).assignments[0]
    again = node.report().assignments
    assert [a.attempt for a in again] == [lost.attempt] and again[0].contract == lost.contract
    node.session.close()
    # The same process comes back and holds nothing: the assignment was lost on the way.
    resent = node.connect().assignments
    assert [a.attempt for a in resent] == [lost.attempt]
    node.accept(resent[0])
    assert not node.report().assignments
    node.running(lost.attempt)
    node.succeed(lost.attempt)


def test_an_attempt_that_its_node_has_lost_is_retried_when_its_lease_has_run_out(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single(attempts=2))
    (one,) = node.take()
    node.running(one.attempt)
    node.hold.clear()
    node.report()
    until(lambda: world.step_state(run.name, "only") == "RETRYING")
    assert attempt_of(world, one.attempt).state_reason == "DISOWNED"
    with world.engine.connect() as conn:
        row = conn.execute(
            sa.text(
                "SELECT s.not_before >= a.lease_until FROM steps s JOIN attempts a ON a.step_uid = s.uid"
                " WHERE a.name = :n"
            ),
            {"n": one.attempt},
        ).scalar_one()
    assert row, "the next attempt must not begin before the lease has run out"
    hurry(world, run.name)
    (two,) = node.take()
    node.running(two.attempt)
    node.succeed(two.attempt)
    assert world.state(run.name) == "SUCCEEDED"


def test_a_restarted_agent_keeps_what_it_adopts_and_never_gets_an_old_lease_again(world, project, agent):
    node = agent()
    node.connect()
    document = pipeline(*(step_yaml(n) for n in ("a", "b")))
    run = world.submit(project, document, bindings=run_pb2.Bindings())
    adopted, forgotten = node.take(2)
    node.running(adopted.attempt)
    del node.hold[forgotten.attempt]
    node.close()
    node.instance_id = str(uuid.uuid4())
    directive = node.connect()
    assert node.intent(adopted.attempt, directive) == "KEEP"
    assert not directive.assignments
    until(lambda: attempt_of(world, forgotten.attempt).state == STATE.STATE_LOST)
    node.succeed(adopted.attempt)
    hurry(world, run.name)
    (again,) = node.take()
    assert again.attempt.endswith("/attempts/2")
    node.running(again.attempt)
    node.succeed(again.attempt)
    assert world.state(run.name) == "SUCCEEDED"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_newer_session_ends_the_older_one(world, project, agent, elsewhere):
    node = agent()
    node.connect()
    older, number = node.session, node.welcome.session
    other = world.start_dispatch() if elsewhere else None
    if other is not None:
        node.port = other.port("dispatch")
    node.connect()
    assert node.welcome.session > number
    error = older.wait_end()
    assert error.code() is grpc.StatusCode.ABORTED and from_rpc_error(error).reason == "SESSION_SUPERSEDED"
    node.report()
    if other is not None:
        node.close()
        other.stop()


def test_two_processes_with_one_identity_are_cordoned(world, project, agent):
    node = agent()
    mine, other = node.instance_id, str(uuid.uuid4())
    for instance in (mine, other, mine):
        node.instance_id = instance
        directive = node.connect()
    assert directive.unschedulable_reason == "IDENTITY_CLONED"
    shown = world.agents.GetAgent(agent_pb2.GetAgentRequest(name=f"agents/{node.name}"), **world.as_user())
    assert shown.state == agent_pb2.Agent.STATE_CORDONED and shown.state_reason == "IDENTITY_CLONED"
    until(lambda: [e for e in world.events("orchestrator.agent.cordoned") if e["resource"] == shown.name])


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_node_whose_clock_is_an_hour_off_gets_no_work(world, project, agent, skew):
    node = agent()
    node.skew = skew
    node.connect()
    run = world.submit(project, single())
    assert node.report().unschedulable_reason == "CLOCK_SKEW"
    assert world.step_state(run.name, "only") == "READY"
    shown = world.agents.GetAgent(agent_pb2.GetAgentRequest(name=f"agents/{node.name}"), **world.as_user())
    assert shown.state_reason == "CLOCK_SKEW"
    node.skew = 0
    node.report()
    (one,) = node.take()
    node.skew = skew
    assert node.intent(one.attempt, node.report()) == "KEEP", "what runs goes on"


def test_a_draining_agent_gets_nothing_new(world, project, agent):
    node = agent()
    node.connect()
    status = node.status()
    status.draining = True
    node.session.send(pb.AgentMessage(status=status))
    assert node.session.expect("directive", lambda d: d.status_sequence == status.sequence).unschedulable_reason
    world.submit(project, single())
    status = node.status()
    status.draining = True
    node.session.send(pb.AgentMessage(status=status))
    assert not node.session.expect("directive", lambda d: d.status_sequence == status.sequence).assignments


def test_a_session_begins_with_hello_and_only_that(world, project, agent):
    node = agent()
    node.connect()
    node.session.send(
        pb.AgentMessage(
            hello=pb.Hello(instance_id=node.instance_id, spool_id=node.spool_id, node=node.node(), status=node.status())
        )
    )
    assert from_rpc_error(node.session.wait_end()).reason == "PROTOCOL_VIOLATION"
    node.connect()
    node.session.send(
        pb.AgentMessage(
            events=pb.Events(
                spool_id=str(uuid.uuid4()),
                events=[pb.SpoolEvent(seq=1, attempt="a", log_chunk=pb.LogChunk(data=b"x"))],
            )
        )
    )
    assert from_rpc_error(node.session.wait_end()).reason == "PROTOCOL_VIOLATION"
    for name in ("a\0b", "projects/p/runs/r/steps/s/attempts/0", "x" * 500):
        node.connect()
        node.send(node.event(name, log_chunk=pb.LogChunk(data=b"x")))
        assert from_rpc_error(node.session.wait_end()).reason == "PROTOCOL_VIOLATION"
    node.connect()
    node.session.send(pb.AgentMessage())
    assert from_rpc_error(node.session.wait_end()).code == "INVALID_ARGUMENT"


def test_dispatch_asks_agents_to_come_back_when_it_ends_and_another_takes_over(world, project):
    other = world.start_dispatch()
    node = Agent(world, projects=[project], port=other.port("dispatch"))
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    started = time.monotonic()
    other.stop()
    reconnect = node.session.expect("reconnect")
    assert reconnect.reason == "DRAINING" and node.session.wait_end() is None
    assert time.monotonic() - started < 5
    node.port = world.dispatch.port("dispatch")
    assert node.intent(one.attempt, node.connect()) == "KEEP"
    node.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    node.close()


def test_every_third_message_lost_and_every_fifth_doubled_the_run_still_ends_right(world, project, agent):
    """The agent replays its spool from what is acknowledged, over sessions that are cut."""
    node = agent()
    node.slots = 2
    document = pipeline(
        *(step_yaml(f"s{i}", attempts=5) for i in range(4)), edges=[("s0", "s2"), ("s1", "s2"), ("s2", "s3")]
    )
    run = world.submit(project, document, bindings=run_pb2.Bindings())
    spool: list[pb.SpoolEvent] = []
    count = 0

    def send(message: pb.AgentMessage) -> None:
        nonlocal count
        count += 1
        if count % 3:
            node.session.send(message)
        if count % 5 == 0:
            node.session.send(message)

    deadline = time.monotonic() + 40
    done: set[str] = set()
    while world.state(run.name) != "SUCCEEDED":
        assert time.monotonic() < deadline, {n: s.state for n, s in world.steps(run.name).items()}
        directive = node.connect()
        spool = [e for e in spool if e.seq > node.welcome.acknowledged_seq]
        for _ in range(4):
            for one in directive.assignments:
                if one.attempt in done:
                    continue
                if one.attempt not in node.contracts:
                    node.accept(one)
                    spool.append(node.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING)))
                    spool.append(node.event(one.attempt, log_chunk=pb.LogChunk(offset_bytes=0, data=b"x" * 10)))
                    spool.append(node.event(one.attempt, result=node.result(one.attempt)))
            for item in directive.attempts:
                if item.intent in (pb.AttemptDirective.INTENT_FORGET, pb.AttemptDirective.INTENT_STALE):
                    node.hold.pop(item.attempt, None)
                    done.add(item.attempt)
            if spool:
                send(pb.AgentMessage(events=pb.Events(spool_id=node.spool_id, events=spool)))
            status = node.status()
            send(pb.AgentMessage(status=status))
            if count % 3:
                directive = node.session.expect("directive", lambda d, n=status.sequence: d.status_sequence >= n)
        node.session.close()
    assert all(s.current_attempt == 1 for s in world.steps(run.name).values()), "nothing ran twice"
    until(lambda: [e for e in world.events("orchestrator.run.succeeded") if e["resource"] == run.name])
    assert len([e for e in world.events("orchestrator.attempt.committed") if e["run"] == run.name]) == 4


def test_the_database_goes_away_in_the_middle_and_the_run_still_ends_once(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, chain())
    (one,) = node.take()
    with psycopg.connect(world.database.admin_dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'orchestrator' AND datname = current_database()"
        )
    spool = [
        node.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING)),
        node.event(one.attempt, result=node.result(one.attempt)),
    ]

    def deliver() -> bool:
        """As an agent does: connects again and sends what is not acknowledged."""
        try:
            if node.session.ended:
                node.connect()
            node.tell(*[e for e in spool if e.seq > node.welcome.acknowledged_seq] or spool)
            return True
        except (AssertionError, grpc.RpcError):
            node.close()
            until(lambda: node.session.ended)
            return False

    until(deliver, 60)
    node.hold.pop(one.attempt)
    until(lambda: _state(world, run.name, "prepare") == "SUCCEEDED")
    node.report()
    (two,) = node.take()
    node.running(two.attempt)
    node.succeed(two.attempt)
    until(lambda: world.state(run.name) == "SUCCEEDED")
    assert all(s.current_attempt == 1 for s in world.steps(run.name).values())


def _state(world, run: str, step: str) -> str:
    try:
        return world.step_state(run, step)
    except grpc.RpcError:
        return ""  # a pooled connection that has not noticed yet
