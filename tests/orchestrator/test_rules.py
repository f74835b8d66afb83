"""Pure rules: placement, agents, logs, tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animus.orchestrator.v1 import run_pb2
from animus_orchestrator.dispatch.authority import parse_token
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.agent import Agent, AgentState
from animus_orchestrator.domain.errors import BindingsInvalid, TokenInvalid
from animus_orchestrator.domain.scheduler import Gpu, Room
from animus_orchestrator.service import convert
from animus_orchestrator.store.logs import Chunk, Tally, fit


def test_room_is_what_was_stated_less_what_was_given_and_plus_what_ended():
    session = SessionState(agent=Agent("n1", "default"), spool_id="s", attestation_key=b"")
    assert session.room() is None
    session.stated = Room("n1", "default", 2, 2000, 200, (Gpu("u1"),))
    session.given["a"] = Size(1500, 50, ("u1",))
    room = session.room()
    assert (room.attempts, room.cpu_millis, room.memory_bytes, room.gpus) == (1, 500, 150, ())
    session.ended("a")
    assert session.room().cpu_millis == 2000
    session.listed, session.sizes = {"b"}, {"b": Size(700, 7, ("u2",))}
    session.ended("b")
    assert session.room().cpu_millis == 2700 and {g.uuid for g in session.room().gpus} == {"u1", "u2"}
    session.unschedulable = "CLOCK_SKEW"
    assert session.room() is None


def test_what_an_agent_shows():
    enrolled = Agent("n", "d")
    assert agents.state(enrolled) == (AgentState.ENROLLED, "")
    online = agents.connect(enrolled, "i1")
    assert (online.session, agents.state(online)[0]) == (1, AgentState.ONLINE)
    from dataclasses import replace

    skewed = replace(online, clock_skew_seconds=1801)
    assert agents.state(skewed) == (AgentState.ONLINE, "CLOCK_SKEW") and agents.unschedulable(skewed) == "CLOCK_SKEW"
    slightly = replace(online, clock_skew_seconds=-6)
    assert agents.state(slightly) == (AgentState.ONLINE, "CLOCK_OFF") and not agents.unschedulable(slightly)
    assert agents.state(replace(online, draining=True))[0] is AgentState.DRAINING
    assert agents.state(replace(online, session_open=False))[0] is AgentState.OFFLINE
    assert agents.state(replace(online, revoked=True))[0] is AgentState.REVOKED


def test_a_restart_is_no_clone_and_a_clone_is_one():
    one = agents.connect(Agent("n", "d"), "i1")
    again = agents.connect(one, "i1")
    restarted = agents.connect(again, "i2")
    assert not restarted.cordoned
    assert agents.connect(restarted, "i1").cordoned == "IDENTITY_CLONED"


def test_clock_skew_is_by_the_server_clock():
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert agents.clock_skew(now + timedelta(seconds=3), now) == 3.0
    assert agents.clock_skew(None, now) == 0.0


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=20)), max_size=30), st.integers(1, 60))
def test_a_log_never_overlaps_never_exceeds_and_marks_its_gaps(pieces, limit):
    tally, kept = Tally(1, 1, 0, 0), []
    for offset, data in pieces:
        chunk = fit(tally, Chunk(offset, data, False, False), limit)
        if chunk is not None:
            kept.append(chunk)
    end = 0
    for chunk in kept:
        assert chunk.offset >= end and chunk.data
        assert chunk.truncated == (chunk.offset > end) or chunk.offset > end
        end = chunk.offset + len(chunk.data)
    assert end <= limit and tally.log_size <= limit
    assert tally.truncated or not any(c.truncated for c in kept)


def test_join_tokens():
    text = parse_token("animus1.id.secret.pin")
    assert (text.id, text.secret, text.pin) == ("id", "secret", "pin") and str(text) == "animus1.id.secret.pin"
    assert text.matches(text.secret_hash) and not parse_token("animus1.id.other.pin").matches(text.secret_hash)
    with pytest.raises(TokenInvalid):
        parse_token("animus1.id.secret")


def test_bindings_survive_the_way_into_a_document_and_back():
    told = run_pb2.Bindings(
        datasets=[{"dataset_ref": "d", "dataset_version": "projects/p/datasets/d/versions/v1"}],
        code=[
            {"code_snapshot": "projects/p/codeSnapshots/a"},
            {"step": "s", "code_snapshot": "projects/p/codeSnapshots/b"},
        ],
        parameters=[
            {"name": "a", "value": {"int_value": 2**53 + 1}},
            {"name": "b", "value": {"double_value": 1.0}},
            {"name": "c", "value": {"bool_value": False}},
            {"name": "d", "value": {"string_value": ""}},
        ],
        labels={"k": "v"},
        experiment="projects/p/experiments/e",
    )
    assert convert.bindings_out(convert.bindings_in("p", told).to_bytes()) == told
    with pytest.raises(BindingsInvalid):
        convert.bindings_in("q", told)
