"""Copied keys, enrolling again, join tokens that are listed and taken back, clocks, and the agents' own log lines."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import agent_pb2
from animus.type.v1.list_order_pb2 import LIST_ORDER_CREATE_TIME_ASC
from animus_kit import pki
from animus_kit.status import from_rpc_error
from animus_orchestrator.dispatch import diagnostics
from animus_orchestrator.store import agent_logs
from tests.orchestrator.agents import Agent
from tests.orchestrator.samples import single
from tests.orchestrator.steering import attempt_of, refused
from tests.orchestrator.test_agent_operations import decide, refuse, refused_session, shown, told
from tests.orchestrator.world import World, until

A = agent_pb2.Agent
T = agent_pb2.JoinToken
LEVEL = agent_pb2.AgentLogLine.Level


def clone(node: Agent) -> None:
    """Two processes with the same keys take turns."""
    mine, other = node.instance_id, str(uuid.uuid4())
    for instance in (mine, other, mine):
        node.instance_id = instance
        node.connect()


# -- copied keys ----------------------------------------------------------------------------------------------------------


def test_a_cloned_identity_gets_work_again_only_with_new_keys(world, project, agent):
    node = agent()
    clone(node)
    assert (shown(world, node).state, shown(world, node).state_reason) == (A.STATE_CORDONED, "IDENTITY_CLONED")
    world.submit(project, single())
    assert not node.report().assignments
    assert refuse(world, "Uncordon", node).reason == "IDENTITY_CLONED"
    # Cordoning it too changes nothing of that.
    assert decide(world, "Cordon", node, reason="look at it").state_reason == "IDENTITY_CLONED"

    thief = Agent(world, name=node.name, enroll=False)
    thief.key, thief.certificate, thief.attestation = node.key, node.certificate, node.attestation
    thief.instance_id = str(uuid.uuid4())
    thief.connect()
    token = node.token(replace_identity=True, projects=[project], labels={"zone": "b"})
    node.key, node.csr = pki.new_csr()
    node.attestation, old = pki.new_signing_key(), node.attestation
    answer = node.enroll(token)
    assert answer.agent == f"agents/{node.name}"
    # Whoever is connected with the copied keys is out at once, and does not come back.
    assert from_rpc_error(thief.session.wait_end()).reason == "SESSION_SUPERSEDED"
    assert refused_session(thief).reason == "CERTIFICATE_SUPERSEDED"

    node.instance_id = str(uuid.uuid4())
    assert node.connect().unschedulable_reason == "IDENTITY_RENEWED"
    found = decide(world, "Uncordon", node)
    assert (found.state, dict(found.labels)) == (A.STATE_ONLINE, {"zone": "b"})
    (one,) = node.take()
    node.running(one.attempt)
    # What the copied key signs proves nothing any more.
    node.tell(node.event(one.attempt, result=node.result(one.attempt, key=old)))
    assert attempt_of(world, one.attempt).state_reason == "PROVENANCE_INVALID"
    (event,) = until(lambda: told(world, node, "reenrolled"))
    assert len(event["endedSerials"]) == 1 and event["attestationKeyId"] == found.attestation_key_id
    thief.close()


def test_restarts_are_no_clones(world, project, agent):
    node = agent()
    for _ in range(5):
        node.instance_id = str(uuid.uuid4())
        node.connect()
        node.connect()
    assert shown(world, node).state == A.STATE_ONLINE
    assert not told(world, node, "cordoned")


def test_enrolling_again_is_for_agents_that_exist(world, project, agent):
    ghost = agent(enroll=False)
    assert refused(ghost.token, replace_identity=True).reason == "AGENT_NOT_FOUND"
    node = agent()
    node.token(replace_identity=True)
    assert refused(node.token, replace_identity=True).reason == "AGENT_EXISTS", "one good token at a time"


def test_an_agent_that_is_revoked_meanwhile_does_not_enrol_again(world, project, agent):
    node = agent()
    token = node.token(replace_identity=True, projects=[project])
    decide(world, "Revoke", node, reason="gone")
    node.key, node.csr = pki.new_csr()
    assert refused(node.enroll, token).reason == "AGENT_REVOKED"
    lost = agent(enroll=False)
    token = lost.token(projects=[project])
    lost.enroll(token)
    decide(world, "Revoke", lost, reason="gone")
    assert refused(lost.enroll, token).reason == "AGENT_REVOKED", "not even the answer of before"


# -- join tokens ------------------------------------------------------------------------------------------------------------


def tokens(world: World, **fields: Any) -> list[T]:
    return list(world.agents.ListJoinTokens(agent_pb2.ListJoinTokensRequest(**fields), **world.as_user()).join_tokens)


def take_back(world: World, name: str, **fields: Any) -> T:
    return world.agents.RevokeJoinToken(agent_pb2.RevokeJoinTokenRequest(name=name, **fields), **world.as_user())


def test_tokens_are_listed_without_their_secret_and_can_be_taken_back(world, project, agent):
    node = agent(enroll=False)
    token = node.token(pool="gpu", projects=[project], labels={"zone": "a"})
    (found,) = tokens(world, agent=f"agents/{node.name}")
    assert found.name == f"joinTokens/{token.split('.')[1]}" and token.split(".")[2] not in str(found)
    assert (found.state, found.pool, list(found.projects)) == (T.STATE_ACTIVE, "gpu", [project])
    key = str(uuid.uuid4())
    gone = take_back(world, found.name, request_id=key)
    assert gone.state == T.STATE_REVOKED
    assert take_back(world, found.name, request_id=key) == gone and take_back(world, found.name) == gone
    assert refused(node.enroll, token).reason == "TOKEN_REVOKED"
    assert refused(take_back, world, "joinTokens/unknown").reason == "JOIN_TOKEN_NOT_FOUND"
    until(lambda: [e for e in world.events("orchestrator.join-token.revoked") if e["token"] == token.split(".")[1]])
    # The name is free again.
    other = node.token(projects=[project])
    node.enroll(other)
    states = [t.state for t in tokens(world, agent=f"agents/{node.name}")]
    assert states == [T.STATE_USED, T.STATE_REVOKED]
    used = f"joinTokens/{other.split('.')[1]}"
    assert refused(take_back, world, used).reason == "TOKEN_USED"


# -- clocks -------------------------------------------------------------------------------------------------------------------


def test_a_clock_that_returns_is_shown_and_forgiven(world, project, agent):
    node = agent()
    node.connect()
    node.skew = 45 * 60
    assert node.report().unschedulable_reason == "CLOCK_SKEW"
    found = shown(world, node)
    assert (found.state, found.state_reason) == (A.STATE_ONLINE, "CLOCK_SKEW")
    assert 44 * 60 < found.clock_offset.ToTimedelta().total_seconds() < 46 * 60
    world.submit(project, single())
    assert not node.report().assignments
    node.skew = 0
    assert node.report().unschedulable_reason == ""
    assert shown(world, node).state_reason == "" and len(node.take()) == 1
    until(lambda: told(world, node, "clock-restored"))
    assert len(told(world, node, "clock-skewed")) == 1


@pytest.mark.parametrize("seconds", [1 << 62, -(1 << 62), 253402300800])
def test_a_time_that_no_calendar_knows_is_a_clock_that_is_off(world, project, agent, seconds):
    node = agent()
    node.connect()
    status = node.status()
    status.client_time.seconds = seconds
    node.session.send(pb.AgentMessage(status=status))
    answer = node.session.expect("directive", lambda d: d.status_sequence == status.sequence)
    assert answer.unschedulable_reason == "CLOCK_SKEW" and shown(world, node).clock_offset.seconds
    assert node.report().unschedulable_reason == ""


# -- log lines ----------------------------------------------------------------------------------------------------------------


def line(message: str, level: int = LEVEL.LEVEL_INFO, **fields: Any) -> pb.LogLine:
    made = pb.LogLine(level=level, logger="animus_agent.loop", message=message, **fields)
    made.client_time.FromDatetime(datetime.now(UTC))
    return made


def say(node: Agent, *lines: pb.LogLine) -> None:
    node.session.send(pb.AgentMessage(diagnostics=pb.Diagnostics(lines=lines)))


def logs(world: World, node: Agent, **fields: Any) -> list[agent_pb2.AgentLogLine]:
    request = agent_pb2.ListAgentLogsRequest(parent=f"agents/{node.name}", **fields)
    return list(world.agents.ListAgentLogs(request, **world.as_user()).lines)


def test_an_agent_s_own_lines_are_kept_scrubbed_and_in_order(world, project, agent):
    node = agent()
    node.connect()
    secret = "animus1.abc.defghijklmnop.qrs"
    say(
        node,
        line("session opened", fields={"session": "1"}),
        line(f"odd \x1b[31m\n{secret}", LEVEL.LEVEL_WARNING, fields={"join_token": "hunter2", "key_id": "abc"}),
        line("it broke", LEVEL.LEVEL_ERROR, dropped_before=7),
    )
    found = until(lambda: f if len(f := logs(world, node, order_by=LIST_ORDER_CREATE_TIME_ASC)) == 3 else None)
    assert [f.message for f in found][::2] == ["session opened", "it broke"]
    assert secret not in found[1].message and "\x1b" not in found[1].message and "\n" not in found[1].message
    assert json.loads(found[1].fields) == {"join_token": "[scrubbed]", "key_id": "abc"}
    assert found[2].dropped_before == 7 and found[0].receive_time.seconds and found[0].client_time.seconds
    assert [f.message for f in logs(world, node)][0] == "it broke", "newest first"
    assert [f.level for f in logs(world, node, min_level=LEVEL.LEVEL_WARNING)] == [3, 2]
    assert [f.message for f in logs(world, node, after_index=found[1].index)] == ["it broke"]
    # Nothing of it is acknowledged or held against the agent.
    assert node.report()


def test_a_flood_of_lines_is_bounded(world, project, agent, monkeypatch):
    monkeypatch.setattr(agent_logs, "KEPT_LINES", 50)
    monkeypatch.setattr(diagnostics, "PRUNE_EVERY", 20)
    node = agent()
    node.connect()
    for start in range(0, 1200, 200):
        say(node, *(line(f"line {i}") for i in range(start, start + 200)))
    say(node, line("the last one"))
    # Whatever was left out, the stream goes on and little is kept.
    node.report()
    with world.engine.connect() as conn:
        count = sa.text("SELECT count(*), max(index) - min(index) FROM agent_logs WHERE agent = :a")
        kept, _ = until(lambda: row if (row := conn.execute(count, {"a": node.name}).one())[0] else None)
    assert kept <= 50 + 200
    assert len(logs(world, node, page_size=500)) <= diagnostics.BURST


@pytest.mark.parametrize(
    "bad",
    [
        pb.LogLine(level=LEVEL.LEVEL_INFO, message="x" * 2000),
        pb.LogLine(message="no level"),
        pb.LogLine(level=LEVEL.LEVEL_INFO, fields={"Bad Name": "x"}),
    ],
)
def test_lines_that_break_the_protocol_end_the_session(world, project, agent, bad):
    node = agent()
    node.connect()
    say(node, bad)
    assert node.session.wait_end().code() is grpc.StatusCode.INVALID_ARGUMENT
