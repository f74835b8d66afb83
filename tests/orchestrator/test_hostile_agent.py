"""A compromised node against dispatch: whatever it says is refused, stands in the log, and changes nothing of others.

It has real keys and a real certificate of its own; it has read the program and the other nodes' documents.

Over 400 lines because the list of lies is one list.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import agent_pb2, run_pb2
from animus.type.v1 import metric_pb2
from animus_kit import pki
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract, Grant, open_contract
from animus_kit.documents.errors import DocumentError
from animus_kit.documents.result import Provenance
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.status import from_rpc_error
from animus_orchestrator.store import agents as agent_store
from tests.orchestrator.agents import CLASS, STATE, Agent
from tests.orchestrator.samples import digest, pipeline, single, step_yaml
from tests.orchestrator.steering import attempt_of, expire, hurry
from tests.orchestrator.world import World, until

# What a hostile message could have changed. Leases are left out: honest heartbeats renew them meanwhile.
STATE_OF = {
    "runs": "SELECT * FROM runs WHERE project = :p",
    "steps": "SELECT * FROM steps WHERE project = :p",
    "attempts": "SELECT a.step_uid, a.number, a.agent, a.state, a.ran, a.failure_class, a.reason, a.message, a.exit_code,"
    " a.log_size, a.log_truncated, a.metric_count, a.contract, a.\"grant\", a.gpu_uuids, a.provenance, a.sandbox_report,"
    " a.start_time, a.end_time FROM attempts a JOIN steps s ON s.uid = a.step_uid WHERE s.project = :p",
    "step_outputs": "SELECT o.* FROM step_outputs o JOIN steps s ON s.uid = o.step_uid WHERE s.project = :p",
    "log_chunks": "SELECT l.* FROM log_chunks l JOIN steps s ON s.uid = l.step_uid WHERE s.project = :p",
    "metric_points": "SELECT m.* FROM metric_points m JOIN steps s ON s.uid = m.step_uid WHERE s.project = :p",
}  # fmt: skip


def state_of(world: World, project: str) -> dict[str, list[str]]:
    """Every row of a project that tells what ran and what came out, as text."""
    with world.engine.connect() as conn:
        return {
            table: sorted(repr(tuple(row)) for row in conn.execute(sa.text(query), {"p": project.split("/")[1]}))
            for table, query in STATE_OF.items()
        }


def refusals(world: World, node: Agent) -> list[dict[str, Any]]:
    return [
        event
        for event in world.events("orchestrator.agent.message-refused")
        if event["resource"] == f"agents/{node.name}"
    ]


def told(world: World, node: Agent, *reasons: str) -> list[dict[str, Any]]:
    """Waits until the log holds refusals of this node for each of the reasons."""
    return until(lambda: (found := refusals(world, node)) and {*reasons} <= {r["reason"] for r in found} and found)


def shut_out(world: World, node: Agent, reason: str) -> None:
    """The stream has ended with this reason, and the log says so."""
    assert from_rpc_error(node.session.wait_end()).reason == reason
    label = f"agent/{node.name}"
    until(
        lambda: [
            e
            for e in world.events("orchestrator.access.denied")
            if e["peer"] == label and e["reason"] == reason and "Connect" in e["method"]
        ]
    )


class Scene:
    """One honest node that runs an attempt of the victim's project, and a hostile one beside it."""

    def __init__(self, world: World, make: Any) -> None:
        self.world = world
        self.project = world.project()
        self.honest: Agent = make(projects=[self.project])
        self.honest.connect()
        self.run = world.submit(self.project, single())
        (self.work,) = self.honest.take()
        self.name = self.work.attempt
        self.honest.running(self.name)
        self.honest.tell(self.honest.event(self.name, log_chunk=pb.LogChunk(data=b"true\n")))
        self.own_project = world.project()
        self.hostile: Agent = make(projects=[self.own_project])
        self.hostile.connect()
        # What it knows: everything that the honest node was sent.
        self.hostile.contracts[self.name] = self.honest.contracts[self.name]
        self.before = state_of(world, self.project)

    def own(self, **step: Any) -> tuple[Any, str]:
        """A run of its own project, leased to the hostile node."""
        run = self.world.submit(self.own_project, single(**step))
        (one,) = self.hostile.take()
        self.hostile.running(one.attempt)
        return run, one.attempt

    def unchanged(self) -> None:
        assert state_of(self.world, self.project) == self.before
        # And the victim's work goes on to its true end.
        self.honest.succeed(self.name)
        assert self.world.state(self.run.name) == "SUCCEEDED"
        (output,) = self.world.steps(self.run.name)["only"].outputs
        assert output.manifest_digest == digest(f"{self.honest.contracts[self.name].action_digest}/out")


@pytest.fixture
def scene(world: World, agent: Any) -> Iterator[Scene]:
    yield Scene(world, agent)


def test_reports_for_an_attempt_that_it_does_not_hold(world, scene):
    node, name = scene.hostile, scene.name
    absent = "projects/x/runs/y/steps/z/attempts/1"
    for state in (STATE.STATE_PREPARING, STATE.STATE_RUNNING, STATE.STATE_FINISHING):
        ack = node.tell(node.event(name, state_changed=pb.StateChanged(state=state)))
        assert list(ack.stale_attempts) == [name]
    ack = node.tell(
        node.event(name, log_chunk=pb.LogChunk(offset_bytes=5, data=b"forged")),
        node.event(name, metric_points=pb.MetricPoints(points=[{"name": "loss", "step": 1, "value": 0.0}])),
        node.event(name, result=node.result(name)),
        node.event(name, result=pb.AttemptResult(state=STATE.STATE_FAILED, reason="FORGED")),
        node.event(name, result=pb.AttemptResult(state=STATE.STATE_CANCELED)),
        node.event(absent, result=node.result(name)),
    )
    assert set(ack.stale_attempts) == {name, absent}
    found = told(world, node, "NOT_ITS_ATTEMPT", "ATTEMPT_UNKNOWN")
    assert {r["attempt"] for r in found} == {name, absent}
    scene.unchanged()


def test_a_flood_of_forged_reports_is_counted_and_fills_no_log(world, scene):
    node = scene.hostile
    for _ in range(3):
        node.tell(*(node.event(scene.name, log_chunk=pb.LogChunk(data=b"x")) for _ in range(1000)))
    told(world, node, "NOT_ITS_ATTEMPT")
    assert len([r for r in refusals(world, node) if r["reason"] == "NOT_ITS_ATTEMPT"]) == 10
    scene.unchanged()


def test_a_status_that_lists_ten_thousand_attempts_of_others(world, scene):
    node = scene.hostile
    node.hold = {f"projects/p{n}/runs/r/steps/s/attempts/1": STATE.STATE_RUNNING for n in range(9_999)}
    node.hold[scene.name] = STATE.STATE_RUNNING
    for _ in range(2):
        directive = node.report()
        assert {pb.AttemptDirective.Intent.Name(d.intent) for d in directive.attempts} == {"INTENT_STALE"}
        assert len(directive.attempts) == 10_000 and not directive.assignments
    (line,) = [r for r in told(world, node, "LISTS_FOREIGN_ATTEMPTS") if r["reason"] == "LISTS_FOREIGN_ATTEMPTS"]
    assert line["attempts"] == "10000"
    with world.engine.connect() as conn:
        agent = conn.execute(sa.text("SELECT agent FROM attempts WHERE name = :n"), {"n": scene.name}).scalar_one()
    assert agent == scene.honest.name
    scene.unchanged()


def test_a_status_beyond_what_one_can_hold_ends_the_session(world, scene):
    node = scene.hostile
    node.hold = {f"projects/p{n}/runs/r/steps/s/attempts/1": STATE.STATE_RUNNING for n in range(10_001)}
    node.session.send(pb.AgentMessage(status=node.status()))
    shut_out(world, node, "REQUEST_INVALID")
    scene.unchanged()


@pytest.mark.parametrize(
    "name", ["x", "projects/p/runs/r/steps/s/attempts/0", "a\0b", "projects/p/runs/r/steps/s' OR 1=1"]
)
def test_names_that_are_none(world, scene, name):
    node = scene.hostile
    node.send(node.event(name, log_chunk=pb.LogChunk(data=b"x")))
    shut_out(world, node, "PROTOCOL_VIOLATION")
    scene.unchanged()


def test_another_nodes_spool_is_its_own_spool_only(world, scene):
    """The id of a spool is no secret: rows are deduplicated by agent and spool."""
    honest, node = scene.honest, scene.hostile
    node.close()
    node.spool_id = honest.spool_id
    node.connect()
    assert node.welcome.acknowledged_seq == 0
    node.seq = honest.seq + 1_000_000
    node.tell(node.event(scene.name, log_chunk=pb.LogChunk(data=b"x")))
    told(world, node, "NOT_ITS_ATTEMPT")
    # Were the spools one, the honest node's next rows would be taken for old ones.
    honest.tell(honest.event(scene.name, log_chunk=pb.LogChunk(offset_bytes=5, data=b"more\n")))
    assert attempt_of(world, scene.name).log_size_bytes == 10


def test_events_of_a_spool_that_was_not_announced(world, scene):
    node = scene.hostile
    event = pb.SpoolEvent(seq=1, attempt=scene.name, log_chunk=pb.LogChunk(data=b"x"))
    node.session.send(pb.AgentMessage(events=pb.Events(spool_id=scene.honest.spool_id, events=[event])))
    shut_out(world, node, "PROTOCOL_VIOLATION")
    scene.unchanged()


def test_old_rows_played_again_and_numbers_that_jump(world, scene):
    node = scene.hostile
    run, name = scene.own()
    first = node.event(name, log_chunk=pb.LogChunk(data=b"once"))
    node.tell(first)
    shown = state_of(world, scene.own_project)
    # The same number with another body, an older number, and both in one message.
    forged = pb.SpoolEvent(seq=first.seq, attempt=name, log_chunk=pb.LogChunk(offset_bytes=4, data=b"twice"))
    old = pb.SpoolEvent(seq=1, attempt=name, result=pb.AttemptResult(state=STATE.STATE_FAILED))
    node.tell(forged, old)
    assert state_of(world, scene.own_project) == shown
    # A jump to the end of all numbers harms nobody but the one who jumps: nothing it says counts any more.
    node.seq = (1 << 63) - 2
    node.tell(node.event(name, log_chunk=pb.LogChunk(offset_bytes=4, data=b"jump")))
    for seq in (0, -1):
        assert node.session.ended is False
        node.send(pb.SpoolEvent(seq=seq, attempt=name, log_chunk=pb.LogChunk(data=b"x")))
        shut_out(world, node, "REQUEST_INVALID")
        node.connect()
    node.send(pb.SpoolEvent(seq=2, attempt=name, result=node.result(name)))
    node.session.expect("events_ack")
    assert world.state(run.name) == "RUNNING"
    scene.unchanged()


FORGERIES = {
    "outputs that were not asked for": lambda n, a, s: {
        "outputs": [{"name": "backdoor", "manifest_digest": digest("x")}],
    },
    "an output besides": lambda n, a, s: {
        "outputs": [*n.result(a).outputs, pb.OutputResult(name="backdoor", manifest_digest=digest("x"))],
    },
    "an output twice": lambda n, a, s: {"outputs": [*n.result(a).outputs] * 2},
    "no output": lambda n, a, s: {"outputs": []},
    "another project's digest": lambda n, a, s: {
        "outputs": [{"name": "out", "manifest_digest": digest(f"{s.honest.contracts[s.name].action_digest}/out"),
                     "file_count": 1, "size_bytes": 10}],
    },
    "other bytes than were signed": lambda n, a, s: {
        "outputs": [{"name": "out", "manifest_digest": digest("altered"), "file_count": 1, "size_bytes": 10}],
    },
    "another size than was signed": lambda n, a, s: {
        "outputs": [replaced(n.result(a).outputs[0], size_bytes=11)],
    },
    "more bytes than the contract allows": lambda n, a, s: {
        "outputs": [replaced(n.result(a).outputs[0], size_bytes=1 << 62)],
    },
    "a key that is not its own": lambda n, a, s: {"key": pki.new_signing_key()},
    "another node's key": lambda n, a, s: {"key": s.honest.attestation},
    "another attempt's proof": lambda n, a, s: {"provenance": s.honest.result(s.name).provenance},
    "a proof for another contract": lambda n, a, s: {
        "contract": replace(n.contracts[a], decision_digest=digest("another")),
    },
    "the envelope of a contract": lambda n, a, s: {"provenance": bytes(s.work.contract)},
    "a proof of another noun": lambda n, a, s: {
        "provenance": dsse.sign(n.contracts[a].to_bytes(), Contract.NOUN, n.attestation),
    },
    "a statement of another kind": lambda n, a, s: {"provenance": dsse.sign(b"{}", Provenance.NOUN, n.attestation)},
    "another attempt's sandbox report": lambda n, a, s: {"sandbox_report": s.honest.result(s.name).sandbox_report},
    "metrics that were not signed": lambda n, a, s: {"metrics": {"accuracy": 1.0}, "provenance": n.result(a).provenance},
    "metrics that are no numbers": lambda n, a, s: {"metrics added": [metric_pb2.Metric(name="x", value=float("nan"))]},
    "a failure that it calls success": lambda n, a, s: {"exit_code": 1},
    "devices that it was not given": lambda n, a, s: {"report_gpus": ("GPU-1",)},
    "a state that is no end": lambda n, a, s: {"state": STATE.STATE_LEASED},
    "a state that nobody knows": lambda n, a, s: {"state": 99},
}  # fmt: skip


REFUSED_AS = ("OUTPUTS_OUTSIDE_CONTRACT", "PROVENANCE_INVALID", "METRICS_INVALID", "STATE_NOT_REPORTABLE")


def replaced(output: pb.OutputResult, **changes: Any) -> pb.OutputResult:
    made = pb.OutputResult()
    made.CopyFrom(output)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_forged_successes_of_its_own_attempts_end_them_without_a_result(world, scene):
    node = scene.hostile
    refused: dict[str, str] = {}
    for what, forge in FORGERIES.items():
        run, name = scene.own()
        changes = forge(node, name, scene)
        added = changes.pop("metrics added", [])
        result = node.result(name, **changes)
        result.metrics.extend(added)
        node.tell(node.event(name, result=result))
        node.hold.pop(name)
        ended = attempt_of(world, name)
        assert ended.state == STATE.STATE_FAILED and not ended.provenance, what
        assert ended.state_reason in REFUSED_AS, what
        assert world.state(run.name) == "FAILED" and not world.steps(run.name)["only"].outputs, what
        refused[name] = ended.state_reason
    found = told(world, node, *REFUSED_AS)
    assert not [e for e in world.events("orchestrator.attempt.committed") if e["run"].startswith(scene.own_project)]
    # Of each reason the first ten singly.
    assert {r["attempt"]: r["reason"] for r in found if "attempt" in r}.items() <= refused.items()
    scene.unchanged()


def test_a_second_end_of_its_own_attempt(world, scene):
    node = scene.hostile
    run, name = scene.own()
    node.succeed(name)
    before = state_of(world, scene.own_project)
    other = pb.AttemptResult(state=STATE.STATE_FAILED, failure_class=CLASS.FAILURE_CLASS_USER_ERROR, reason="LATER")
    for result in (node.result(name), other):
        assert list(node.tell(node.event(name, result=result)).stale_attempts) == [name]
    told(world, node, "STALE_ATTEMPT")
    assert state_of(world, scene.own_project) == before and world.state(run.name) == "SUCCEEDED"
    scene.unchanged()


def test_the_former_number_of_a_step_is_not_its_present_one(world, project, agent):
    first, second = agent(), agent()
    first.connect()
    run = world.submit(project, single(attempts=2))
    (old,) = first.take()
    first.running(old.attempt)
    first.slots = 1
    first.report()
    expire(world, old.attempt)
    until(lambda: attempt_of(world, old.attempt).state == STATE.STATE_LOST)
    hurry(world, run.name)
    second.connect()
    (new,) = second.take()
    before = state_of(world, project)
    # The old attempt's holder claims the new one, and ends its own with the new number's proof.
    first.contracts[new.attempt] = second.contracts[new.attempt]
    ack = first.tell(
        first.event(new.attempt, result=first.result(new.attempt)),
        first.event(old.attempt, result=first.result(old.attempt, contract=second.contracts[new.attempt])),
    )
    assert set(ack.stale_attempts) == {old.attempt, new.attempt}
    told(world, first, "NOT_ITS_ATTEMPT", "STALE_ATTEMPT")
    assert state_of(world, project) == before
    second.running(new.attempt)
    second.succeed(new.attempt)
    assert world.state(run.name) == "SUCCEEDED"


def test_a_wider_self_description_widens_nothing(world, agent):
    project, other = world.project(), world.project()
    node = agent(projects=[project], pool="default")
    node.gpus = {"GPU-of-somebody-else": "NVIDIA H200", "x" * 128: "NVIDIA H200"}
    huge = (1 << 63) - 1
    node.slots, node.cpu, node.memory = (1 << 31) - 1, huge, huge
    run = world.submit(other, single())
    assert not node.connect(cpu_millis=huge, memory_bytes=huge).assignments
    assert not node.report().assignments, "another project's work"
    told(world, node, "ROOM_BEYOND_NODE")
    shown = world.agents.GetAgent(agent_pb2.GetAgentRequest(name=f"agents/{node.name}"), **world.as_user())
    assert (shown.pool, list(shown.projects), dict(shown.labels)) == ("default", [project], {})
    # Its numbers break no sum for the others.
    honest = agent(projects=[other])
    honest.connect()
    (one,) = honest.take()
    honest.running(one.attempt)
    honest.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"
    # Of its own project it gets what there is, and what ends gives it no more room than it had.
    mine = world.submit(project, pipeline(*(step_yaml(f"s{n}") for n in range(3))), bindings=run_pb2.Bindings())
    for one in node.take(3):
        node.running(one.attempt)
        node.succeed(one.attempt)
    assert world.state(mine.name) == "SUCCEEDED"


def test_a_gpu_of_another_node_is_not_taken_from_it_by_claiming_it(world, agent):
    project = world.project()
    device = f"GPU-{uuid.uuid4()}"
    honest, hostile = agent(projects=[project]), agent(projects=[world.project()])
    honest.gpus = hostile.gpus = {device: "NVIDIA H200"}
    hostile.connect()
    world.submit(next(iter(_projects(world, hostile))), single(gpu=1))
    (theirs,) = hostile.take()
    honest.connect()
    world.submit(project, single(gpu=1))
    (ours,) = honest.take()
    # Each claim counts for its own node alone.
    assert honest.contracts[ours.attempt].gpu_uuids == hostile.contracts[theirs.attempt].gpu_uuids == (device,)


def _projects(world: World, node: Agent) -> list[str]:
    request = agent_pb2.GetAgentRequest(name=f"agents/{node.name}")
    return list(world.agents.GetAgent(request, **world.as_user()).projects)


def test_a_copied_identity_is_shut_out_with_the_original(world, scene):
    """Whoever has copied a node's keys takes turns with it: both get nothing more, and nothing that runs is lost."""
    node = scene.honest
    mine, thiefs = node.instance_id, str(uuid.uuid4())
    for instance in (thiefs, mine):
        node.instance_id = instance
        directive = node.connect()
    assert directive.unschedulable_reason == "IDENTITY_CLONED"
    until(lambda: [e for e in world.events("orchestrator.agent.cordoned") if e["resource"] == f"agents/{node.name}"])
    more = world.submit(scene.project, single())
    assert not node.report().assignments and world.step_state(more.name, "only") == "READY"
    assert attempt_of(world, scene.name).state == STATE.STATE_RUNNING


def test_a_certificate_of_another_ca_or_name_reaches_nothing(world, scene):
    node = scene.hostile
    stranger = Agent(world, enroll=False)
    ca = pki.new_ca("agents", datetime.now(UTC))
    stranger.certificate = pki.sign_agent(
        ca, pki.csr_public_key(stranger.csr), scene.honest.name, "animus.local", datetime.now(UTC)
    )
    with pytest.raises(AssertionError, match="UNAVAILABLE"):
        stranger.connect()
    # Its own certificate says who it is, whatever else it claims: there is no field for a name.
    assert "agent" not in {f.name for f in pb.Hello.DESCRIPTOR.fields}
    # And an honest node takes no order that was signed for another, or by anybody but the server.
    keys = [world.pki.contract.public_key()]
    with pytest.raises(DocumentError, match="is for agents/"):
        open_contract(scene.work.contract, scene.work.grant, keys, f"agents/{node.name}")
    forged = dsse.sign(scene.honest.contracts[scene.name].to_bytes(), Contract.NOUN, node.attestation)
    with pytest.raises(DocumentError):
        open_contract(forged, scene.work.grant, keys, f"agents/{scene.honest.name}")
    assert (
        Grant.from_bytes(dsse.open_unverified(scene.work.grant, Grant.NOUN)[0]).agent == f"agents/{scene.honest.name}"
    )
    scene.unchanged()


def test_a_log_beyond_its_limits(world, scene):
    node = scene.hostile
    _, name = scene.own()
    chunk = pb.LogChunk(data=b"x" * 262_144)
    limit = 64 << 20
    # Far beyond the end, and backwards; then a whole message of single bytes.
    node.tell(node.event(name, log_chunk=pb.LogChunk(data=b"begin")))
    node.tell(*(node.event(name, log_chunk=pb.LogChunk(offset_bytes=5 + n, data=b"y")) for n in range(1000)))
    with world.engine.connect() as conn:
        rows = conn.execute(
            sa.text("SELECT count(*) FROM log_chunks l JOIN attempts a USING (step_uid, number) WHERE a.name = :n"),
            {"n": name},
        ).scalar_one()
    assert rows == 2, "a row for each message, not for each byte"
    for offset in (limit - 1, limit, (1 << 62), 0):
        node.tell(node.event(name, log_chunk=pb.LogChunk(offset_bytes=offset, data=chunk.data)))
    shown = attempt_of(world, name)
    assert shown.log_size_bytes == limit and shown.log_truncated
    node.send(node.event(name, log_chunk=pb.LogChunk(data=b"x" * 262_145)))
    shut_out(world, node, "REQUEST_INVALID")
    scene.unchanged()


def test_a_flood_of_metrics(world, scene):
    node = scene.hostile
    _, name = scene.own()
    points = [{"name": "loss", "step": n, "value": 0.5} for n in range(1000)]
    node.tell(
        node.event(name, metric_points=pb.MetricPoints(first_index=99_500, points=points)),
        node.event(name, metric_points=pb.MetricPoints(first_index=(1 << 63) - 2000, points=points)),
        node.event(name, metric_points=pb.MetricPoints(points=[{"name": "a" * 129, "value": 1.0}])),
    )
    with world.engine.connect() as conn:
        count, largest = conn.execute(
            sa.text(
                "SELECT count(*), max(m.index) FROM metric_points m JOIN attempts a USING (step_uid, number)"
                " WHERE a.name = :n"
            ),
            {"n": name},
        ).one()
    assert (count, largest) == (500, 99_999)
    node.send(node.event(name, metric_points=pb.MetricPoints(points=points + points[:1])))
    shut_out(world, node, "REQUEST_INVALID")
    scene.unchanged()


def test_giant_and_broken_messages(world, scene):
    node = scene.hostile
    _, name = scene.own()
    # Eight MiB is what a listener reads; more never reaches the program.
    giant = [node.event(name, log_chunk=pb.LogChunk(data=b"x" * 262_144)) for _ in range(40)]
    node.send(*giant)
    error = node.session.wait_end()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert attempt_of(world, name).log_size_bytes == 0
    node.seq = 1000
    node.connect()
    node.send(*(node.event(name, log_chunk=pb.LogChunk(data=b"x")) for _ in range(1001)))
    shut_out(world, node, "REQUEST_INVALID")
    node.connect()
    result = node.result(name, reason="lower case")
    node.send(node.event(name, result=result))
    shut_out(world, node, "REQUEST_INVALID")
    node.connect()
    node.send(node.event(name, result=node.result(name, provenance=b"x" * ((1 << 20) + 1))))
    shut_out(world, node, "REQUEST_INVALID")
    assert attempt_of(world, name).state == STATE.STATE_RUNNING
    scene.unchanged()


def test_a_second_hello_and_nothing_at_all(world, scene):
    node = scene.hostile
    hello = pb.Hello(instance_id=node.instance_id, spool_id=node.spool_id, node=node.node(), status=node.status())
    node.session.send(pb.AgentMessage(hello=hello))
    shut_out(world, node, "PROTOCOL_VIOLATION")
    scene.unchanged()


def test_what_it_writes_into_messages_reaches_no_terminal_and_no_query(world, scene):
    node = scene.hostile
    run, name = scene.own()
    text = "\x1b[2J\x07evil\u202e'; DROP TABLE attempts; --\0"
    result = pb.AttemptResult(
        state=STATE.STATE_FAILED, failure_class=CLASS.FAILURE_CLASS_LOST_NODE, reason="MINE", message=text
    )
    node.tell(node.event(name, result=result))
    shown = attempt_of(world, name)
    assert shown.state_message == "[2Jevil'; DROP TABLE attempts; --"
    # Only the server says that a node is lost: that class would spare the retry's count.
    assert shown.failure_class == CLASS.FAILURE_CLASS_INFRASTRUCTURE
    assert world.state(run.name) in ("FAILED", "RUNNING")
    report = SandboxReport.from_bytes(node.result(name).sandbox_report)
    assert report.attempt == name
    scene.unchanged()


def test_ever_new_spools_fill_no_table(world, scene):
    node = scene.hostile
    ids = sorted(str(uuid.uuid4()) for _ in range(agent_store.SPOOLS_KEPT + 10))
    for one in ids:
        with world.engine.begin() as conn:
            assert agent_store.lock_spools(conn, [(node.name, one)]) == {(node.name, one): 0}
    with world.engine.connect() as conn:
        kept = (
            conn.execute(sa.text("SELECT spool_id FROM agent_spools WHERE agent = :a"), {"a": node.name})
            .scalars()
            .all()
        )
    assert set(kept) == set(ids[10:]), "the newest"
    scene.unchanged()
