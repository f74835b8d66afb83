"""Agents in lists, what each was ever given, and where a join token lets it work."""

from __future__ import annotations

import itertools
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import agent_pb2
from animus_kit.digest import sha256
from tests.orchestrator.agents import STATE
from tests.orchestrator.samples import single
from tests.orchestrator.steering import attempt_of, refused
from tests.orchestrator.test_agent_operations import shown
from tests.orchestrator.world import until

A = agent_pb2.Agent
# Not so long ago that anybody looks whether it is empty.
LATER = datetime.now(UTC) + timedelta(hours=1)


# -- what it was given ----------------------------------------------------------------------------------------------------


def test_every_attempt_a_node_was_given_is_listed_with_what_it_signed(world, project, agent):
    node = agent()
    node.connect()
    runs = []
    for _ in range(3):
        runs.append(world.submit(project, single(attempts=1)).name)
        (one,) = node.take()
        node.running(one.attempt)
        node.succeed(one.attempt)
    failing = world.submit(project, single(attempts=1)).name
    (bad,) = node.take()
    node.running(bad.attempt)
    node.fail(bad.attempt)

    def page(**fields: Any) -> Any:
        request = agent_pb2.ListAgentAttemptsRequest(parent=f"agents/{node.name}", **fields)
        return world.agents.ListAgentAttempts(request, **world.as_user())

    first = page(page_size=3)
    rest = page(page_size=3, page_token=first.next_page_token)
    everything = [*first.attempts, *rest.attempts]
    assert not rest.next_page_token
    assert [a.run for a in everything] == [failing, *reversed(runs)], "newest first"
    signed = page(signed_only=True).attempts
    assert [a.run for a in signed] == list(reversed(runs))
    for one in signed:
        full = attempt_of(world, one.attempt)
        assert one.provenance_digest == sha256(full.provenance)
        assert one.contract_digest == sha256(full.contract)
        assert (one.project, one.state) == (project, STATE.STATE_SUCCEEDED)
    (event,) = until(lambda: [e for e in world.events("orchestrator.attempt.committed") if e["run"] == runs[0]])
    assert event["provenanceDigest"] == signed[-1].provenance_digest, "the log says the same"
    assert not next(a for a in everything if a.run == failing).provenance_digest
    missing = agent_pb2.ListAgentAttemptsRequest(parent="agents/nobody")
    assert refused(world.agents.ListAgentAttempts, missing, **world.as_user()).reason == "AGENT_NOT_FOUND"


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_by_state_finds_what_is_shown_in_that_state(world, project, agent):
    """The rule is written twice: once for one agent, once as a condition of a query."""
    node = agent(pool=f"p{uuid.uuid4().hex[:8]}")
    pool = shown(world, node).pool
    seen = set()
    for flags in itertools.product((False, True), repeat=7):
        revoked, cordoned, drain, drained, session, session_open, draining = flags
        values = {
            "i": node.name, "revoked": revoked, "cordoned": "CORDONED" if cordoned else "",
            "drain": LATER if drain else None, "drained": LATER if drain and drained else None, "session": int(session),
            "open": session and session_open, "draining": draining,
        }  # fmt: skip
        with world.engine.begin() as conn:
            conn.execute(
                sa.text(
                    "UPDATE agents SET revoked = :revoked, cordoned = :cordoned, drain_time = :drain,"
                    " drained_time = :drained, session = :session, session_open = :open, draining = :draining"
                    " WHERE id = :i"
                ),
                values,
            )
        state = shown(world, node).state
        seen.add(state)
        for asked in {state, random.choice(A.State.values()[1:])}:
            request = agent_pb2.ListAgentsRequest(pool=pool, states=[asked])
            found = world.agents.ListAgents(request, **world.as_user()).agents
            assert bool(found) == (asked == state), (flags, A.State.Name(asked), A.State.Name(state))
    assert seen == set(A.State.values()[1:])


# -- placement ------------------------------------------------------------------------------------------------------------


def test_a_token_s_pool_and_projects_hold_whatever_the_node_says(world, project, agent):
    """The token alone places a node: neither its room nor its description widens where it works."""
    elsewhere = world.project()
    other_pool = agent(pool="gpu")
    other_project = agent(projects=[elsewhere])
    for node in (other_pool, other_project):
        node.cpu, node.memory = 1 << 40, 1 << 60
        node.connect(hostname=project)
    run = world.submit(project, single())
    for node in (other_pool, other_project):
        assert not node.report().assignments
    assert world.step_state(run.name, "only") == "READY"
    right = agent()
    right.connect()
    (one,) = right.take()
    # An attempt of another node is none of theirs, whatever they list and report.
    for node in (other_pool, other_project):
        node.hold[one.attempt] = STATE.STATE_RUNNING
        assert node.intent(one.attempt, node.report()) == "STALE"
        ack = node.tell(node.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING)))
        assert list(ack.stale_attempts) == [one.attempt]
