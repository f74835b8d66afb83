"""Cordon, drain, revoke: what people decide about a node, and what follows for what it runs."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc
from animus.orchestrator.v1 import agent_pb2
from animus_kit.status import from_rpc_error
from tests.orchestrator.agents import CLASS, STATE, Agent
from tests.orchestrator.samples import single
from tests.orchestrator.steering import attempt_of, hurry, refused
from tests.orchestrator.world import World, until

A = agent_pb2.Agent


def shown(world: World, node: Agent) -> A:
    return world.agents.GetAgent(agent_pb2.GetAgentRequest(name=f"agents/{node.name}"), **world.as_user())


def decide(world: World, verb: str, node: Agent, **fields: Any) -> A:
    request = getattr(agent_pb2, f"{verb}AgentRequest")(name=f"agents/{node.name}", **fields)
    return getattr(world.agents, f"{verb}Agent")(request, **world.as_user())


def refuse(world: World, verb: str, node: Agent, **fields: Any) -> Any:
    request = getattr(agent_pb2, f"{verb}AgentRequest")(name=f"agents/{node.name}", **fields)
    return refused(getattr(world.agents, f"{verb}Agent"), request, **world.as_user())


def told(world: World, node: Agent, kind: str) -> list[dict[str, Any]]:
    return [e for e in world.events(f"orchestrator.agent.{kind}") if e["resource"] == f"agents/{node.name}"]


# -- cordon -------------------------------------------------------------------------------------------------------------


def test_a_cordoned_agent_gets_no_work_keeps_what_it_has_and_comes_back(world, project, agent):
    node = agent()
    node.connect()
    held = world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    node.report()
    answer = decide(world, "Cordon", node, reason="a fan is loud")
    assert (answer.state, answer.state_reason, answer.state_message) == (
        A.STATE_CORDONED,
        "CORDONED",
        "a fan is loud",
    )
    # Told at once, not with the next Status.
    node.session.expect("directive", lambda d: d.unschedulable_reason == "CORDONED")
    waiting = world.submit(project, single())
    assert not node.report().assignments
    assert node.intent(one.attempt, node.report()) == "KEEP"
    node.succeed(one.attempt)
    assert world.state(held.name) == "SUCCEEDED"
    assert world.step_state(waiting.name, "only") == "READY"

    back = decide(world, "Uncordon", node)
    assert (back.state, back.state_reason, back.state_message) == (A.STATE_ONLINE, "", "")
    (two,) = node.take()
    node.running(two.attempt)
    node.succeed(two.attempt)
    until(lambda: told(world, node, "uncordoned"))
    (event,) = told(world, node, "cordoned")
    assert event["message"] == "a fan is loud" and event["by"] != "service/orchestrator"


def test_decisions_are_idempotent_and_guarded_by_etag(world, project, agent):
    node = agent()
    key = str(uuid.uuid4())
    first = decide(world, "Cordon", node, reason="x", request_id=key)
    assert decide(world, "Cordon", node, reason="x", request_id=key) == first
    assert refuse(world, "Cordon", node, reason="y", request_id=key).reason == "REQUEST_ID_REUSED"
    # Another cordon changes nothing: the reason stays, and the log has one event.
    assert decide(world, "Cordon", node, reason="z").state_message == "x"
    assert decide(world, "Cordon", node, reason="z").etag == first.etag
    assert refuse(world, "Drain", node, etag="1").reason == "ETAG_MISMATCH"
    assert decide(world, "Drain", node, etag=first.etag).etag != first.etag
    assert refuse(world, "Revoke", node).reason == "REQUEST_INVALID", "a revocation says why"
    assert refuse(world, "Cordon", node, reason="a\nb").reason == "REQUEST_INVALID"
    until(lambda: told(world, node, "drain-requested"))
    assert len(told(world, node, "cordoned")) == 1
    ghost = agent(enroll=False)
    assert refuse(world, "Cordon", ghost, reason="x").reason == "AGENT_NOT_FOUND"


# -- drain --------------------------------------------------------------------------------------------------------------


def test_a_drained_agent_finishes_what_it_runs_and_says_when_it_is_empty(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    answer = decide(world, "Drain", node, reason="new kernel")
    assert (answer.state, answer.state_reason) == (A.STATE_DRAINING, "DRAIN_REQUESTED")
    assert list(answer.attempts) == [one.attempt] and not answer.HasField("drain_deadline_time")
    world.submit(project, single())
    directive = node.report()
    assert node.intent(one.attempt, directive) == "KEEP" and not directive.assignments
    assert shown(world, node).state == A.STATE_DRAINING
    node.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    empty = until(lambda: shown(world, node) if shown(world, node).state == A.STATE_DRAINED else None)
    assert empty.drained_time.seconds and not empty.attempts
    until(lambda: told(world, node, "drained"))
    listed = world.agents.ListAgents(
        agent_pb2.ListAgentsRequest(states=[A.STATE_DRAINED], page_size=500), **world.as_user()
    )
    assert f"agents/{node.name}" in [a.name for a in listed.agents]
    # A drained node that comes back, after a reboot say, stays drained.
    node.close()
    node.instance_id = str(uuid.uuid4())
    assert node.connect().unschedulable_reason == "DRAIN_REQUESTED"
    assert decide(world, "Uncordon", node).state == A.STATE_ONLINE
    assert len(node.take()) == 1


def test_after_its_deadline_what_still_runs_is_preempted_and_goes_elsewhere(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single(attempts=2))
    (one,) = node.take()
    node.running(one.attempt)
    node.report()
    answer = decide(world, "Drain", node, grace=Duration(seconds=0))
    assert answer.HasField("drain_deadline_time")
    # Pushed when the time is over, not asked for.
    node.session.expect("directive", lambda d: [a for a in d.attempts if a.intent == _INTENT.INTENT_PREEMPT])
    assert shown(world, node).state_reason == "DRAIN_DEADLINE_PASSED"
    other = agent()
    other.connect()
    node.fail(one.attempt, CLASS.FAILURE_CLASS_PREEMPTED)
    assert attempt_of(world, one.attempt).failure_class == CLASS.FAILURE_CLASS_PREEMPTED
    hurry(world, run.name)
    (two,) = other.take()
    other.running(two.attempt)
    other.succeed(two.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    until(lambda: shown(world, node).state == A.STATE_DRAINED)
    until(lambda: told(world, node, "preempting"))


def test_a_node_that_does_not_stop_in_time_is_taken_back(world, project, agent):
    node = agent()
    node.connect()
    world.submit(project, single(attempts=2))
    (one,) = node.take()
    node.running(one.attempt)
    decide(world, "Drain", node, grace=Duration(seconds=0))
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE agents SET drain_until = now() - interval '10 minutes' WHERE id = :i"), {"i": node.name}
        )
    until(lambda: attempt_of(world, one.attempt).state == STATE.STATE_LOST)
    assert attempt_of(world, one.attempt).state_reason == "PREEMPTED"
    assert node.intent(one.attempt, node.report()) == "STALE"


def test_the_grace_of_a_drain_can_be_set_anew(world, project, agent):
    node = agent()
    node.connect()
    world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    first = decide(world, "Drain", node, grace=Duration(seconds=3600))
    later = decide(world, "Drain", node, grace=Duration(seconds=7200))
    assert later.drain_deadline_time.seconds > first.drain_deadline_time.seconds + 3000
    assert later.drain_time == first.drain_time
    assert not decide(world, "Drain", node).HasField("drain_deadline_time")
    assert node.intent(one.attempt, node.report()) == "KEEP"


# -- revoke -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_revoked_agent_loses_its_stream_its_attempts_and_its_certificate(world, project, agent, elsewhere):
    other = world.start_dispatch() if elsewhere else None
    node = agent(port=other.port("dispatch")) if other else agent()
    node.connect()
    done = world.submit(project, single())
    (first,) = node.take()
    node.running(first.attempt)
    node.succeed(first.attempt)
    run = world.submit(project, single(attempts=2))
    (one,) = node.take()
    node.running(one.attempt)
    node.report()

    answer = decide(world, "Revoke", node, reason="found on a market")
    assert (answer.state, answer.state_reason, answer.state_message) == (
        A.STATE_REVOKED,
        "REVOKED",
        "found on a market",
    )
    # Within a second or two, without the agent saying anything: that the wait below succeeds is the point.
    error = from_rpc_error(node.session.wait_end())
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "AGENT_REVOKED")
    lost = attempt_of(world, one.attempt)
    assert lost.state == STATE.STATE_LOST and lost.state_reason == "AGENT_REVOKED"
    assert lost.failure_class == CLASS.FAILURE_CLASS_LOST_NODE
    with world.engine.connect() as conn:
        waits = conn.execute(
            sa.text(
                "SELECT s.not_before >= a.lease_until FROM steps s JOIN attempts a ON a.step_uid = s.uid"
                " WHERE a.name = :n"
            ),
            {"n": one.attempt},
        ).scalar_one()
    assert waits, "its processes are not known to be dead before the lease has run out"

    # Neither a new session, nor a new certificate, nor the old token's answer.
    again = refused_session(node)
    assert again.reason == "AGENT_REVOKED"
    with node.channel() as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        renewal = refused(stub.RenewCertificate, pb.RenewCertificateRequest(tls_csr=node.csr), timeout=15)
    assert renewal.reason == "AGENT_REVOKED"
    assert refused(node.token, projects=[project]).reason == "AGENT_EXISTS", "the name is never given again"
    assert refused(node.token, replace_identity=True).reason == "AGENT_REVOKED"
    for verb, fields in (("Cordon", {"reason": "x"}), ("Uncordon", {}), ("Drain", {})):
        assert refuse(world, verb, node, **fields).reason == "AGENT_REVOKED"
    assert decide(world, "Revoke", node, reason="again").state_message == "found on a market"
    (event,) = until(lambda: told(world, node, "revoked"))
    assert event["message"] == "found on a market"

    # What it committed before stays, and another node goes on.
    assert world.state(done.name) == "SUCCEEDED"
    healthy = agent()
    healthy.connect()
    hurry(world, run.name)
    (two,) = healthy.take()
    healthy.running(two.attempt)
    healthy.succeed(two.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    if other is not None:
        other.stop()


def test_a_result_that_was_under_way_when_its_agent_was_revoked_is_not_taken(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single(attempts=1))
    (one,) = node.take()
    node.running(one.attempt)
    # The database alone, as if every notice were lost and nobody had counted the attempt out yet.
    with world.engine.begin() as conn:
        conn.execute(sa.text("UPDATE agents SET revoked = true, revoke_time = now() WHERE id = :i"), {"i": node.name})
    node.send(node.event(one.attempt, result=node.result(one.attempt)))
    assert from_rpc_error(node.session.wait_end()).reason == "AGENT_REVOKED"
    until(lambda: attempt_of(world, one.attempt).state == STATE.STATE_LOST)
    assert not attempt_of(world, one.attempt).provenance
    assert world.step_state(run.name, "only") in ("RETRYING", "FAILED")
    assert not [e for e in world.events("orchestrator.attempt.committed") if e["run"] == run.name]


def test_a_revocation_waits_for_the_result_that_is_being_taken(world, project, agent):
    """A batch that takes a result keeps the agent's row until it is committed: nothing signed comes after a revocation."""
    from animus_kit.db.engine import transaction
    from animus_orchestrator.store import agents as store

    node = agent()
    node.connect()
    with ThreadPoolExecutor(1) as elsewhere, transaction(world.engine) as conn:
        assert not store.sessions(conn, [node.name], hold=True)[node.name].revoked
        call = elsewhere.submit(lambda: decide(world, "Revoke", node, reason="x"))
        until(lambda: _waits_for_lock(world))
        assert not call.done()
        # Others write to the row meanwhile: statuses and leases are not held up.
        conn.execute(sa.text("UPDATE agents SET last_seen_time = now() WHERE id = :i"), {"i": node.name})
        conn.commit()
        assert call.result().state == A.STATE_REVOKED


def test_an_expired_attestation_certificate_proves_nothing(world, project, agent):
    node = agent()
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE agents SET attestation_not_after = now() - interval '1 s' WHERE id = :i"), {"i": node.name}
        )
    node.connect()
    run = world.submit(project, single(attempts=1))
    (one,) = node.take()
    node.running(one.attempt)
    node.succeed(one.attempt)
    ended = attempt_of(world, one.attempt)
    assert (ended.state, ended.state_reason) == (STATE.STATE_FAILED, "ATTESTATION_EXPIRED")
    assert ended.failure_class == CLASS.FAILURE_CLASS_TAINTED and not ended.provenance
    assert world.state(run.name) == "FAILED"


_INTENT = pb.AttemptDirective.Intent


def refused_session(node: Agent) -> Any:
    with pytest.raises(AssertionError, match="the stream ended"):
        node.connect()
    return from_rpc_error(node.session.wait_end())


def _waits_for_lock(world: World) -> bool:
    with world.engine.connect() as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%agents%'"
        return conn.execute(sa.text(query)).scalar_one() > 0
