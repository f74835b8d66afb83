"""Messages of an agent that never arrive: what lies behind the hole waits, and is taken when the hole is filled."""

from __future__ import annotations

from animus.agent.v1 import dispatch_pb2 as pb
from tests.orchestrator.agents import STATE
from tests.orchestrator.samples import single
from tests.orchestrator.steering import attempt_of


def test_nothing_behind_a_hole_is_taken_before_it_is_filled(world, project, agent):
    node = agent()
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    node.running(one.attempt)
    before = node.seq
    log = node.event(one.attempt, log_chunk=pb.LogChunk(data=b"told"))
    result = node.event(one.attempt, result=node.result(one.attempt, log_size_bytes=4))

    def send(after: int, *events: pb.SpoolEvent) -> pb.EventsAck:
        message = pb.Events(spool_id=node.spool_id, after_seq=after, events=events)
        node.session.send(pb.AgentMessage(events=message))
        return node.session.expect("events_ack")

    ack = send(log.seq, result)  # The log before it was lost.
    assert (ack.seq, ack.resend, list(ack.stale_attempts)) == (before, True, [])
    assert attempt_of(world, one.attempt).state == STATE.STATE_RUNNING
    ack = send(before, log, result)
    assert (ack.seq, ack.resend) == (result.seq, False)
    assert world.state(run.name) == "SUCCEEDED"
    ended = attempt_of(world, one.attempt)
    assert (ended.log_size_bytes, ended.log_truncated) == (4, False)


def test_numbers_that_were_never_sent_are_no_hole(world, project, agent):
    """Rows of a forgotten attempt are never told, and their numbers never come."""
    node = agent()
    node.connect()
    run = world.submit(project, single())
    (one,) = node.take()
    before = node.seq
    node.seq += 100
    running = node.event(one.attempt, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING))
    message = pb.Events(spool_id=node.spool_id, after_seq=before, events=[running])
    node.session.send(pb.AgentMessage(events=message))
    assert node.session.expect("events_ack").seq == running.seq
    node.succeed(one.attempt)
    assert world.state(run.name) == "SUCCEEDED"
