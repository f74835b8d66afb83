"""What an operator's decisions do on the node: a drain's deadline, a revocation; and what the agent tells of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from animus.orchestrator.v1 import agent_pb2, run_pb2
from animus_agent import diagnostics
from animus_agent.diagnostics import Diagnostics
from animus_agent.errors import IdentityError
from animus_agent.identity import Identity, enroll_again
from animus_kit.clock import SystemClock
from animus_kit.errors import FailedPrecondition
from animus_kit.log import get_logger
from animus_kit.testing.clock import FakeClock
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import AgentProcess, ControlPlane, Intent, until

State = run_pb2.Attempt.State
Failure = run_pb2.Attempt.FailureClass
Level = agent_pb2.AgentLogLine.Level


class Revoked(FailedPrecondition):
    reason = "AGENT_REVOKED"


@pytest.fixture
def start(control: ControlPlane, node_dir: Path) -> Iterator[Callable[..., AgentProcess]]:
    running: list[AgentProcess] = []

    def begin(driver: str = "fake", **more: str) -> AgentProcess:
        node = node_dir / f"node-{len(running)}"
        node.mkdir(mode=0o711)
        running.append(AgentProcess(control, node, driver, **more))
        return running[-1]

    yield begin
    for agent in running:
        agent.close()


@requires_runc
def test_what_is_preempted_gets_its_grace_and_says_so(
    control: ControlPlane, start: Callable[..., AgentProcess]
) -> None:
    agent = start("runc")
    script = "trap 'echo saved; exit 0' TERM; echo begin; while :; do sleep 0.1; done"
    known = control.assign(control.world.order("/bin/sh", "-c", script, grace=5))
    until(lambda: b"begin" in known.text, "running", show=lambda: agent.log)
    known.intent = Intent.INTENT_PREEMPT
    control.poke()
    until(lambda: known.results, "the end", show=lambda: agent.log)
    (result,) = known.results
    assert (result.state, result.failure_class) == (State.STATE_FAILED, Failure.FAILURE_CLASS_PREEMPTED)
    assert result.reason == "DRAIN_DEADLINE_PASSED" and b"saved" in known.text
    until(lambda: not control.held, "forgotten", show=lambda: agent.log)


@pytest.mark.parametrize("driver", ["fake", pytest.param("runc", marks=requires_runc)])
def test_a_revoked_node_ends_what_it_runs_and_stays_away(
    control: ControlPlane, start: Callable[..., AgentProcess], driver: str
) -> None:
    agent = start(driver)
    command = (
        ("fake", "seconds=600") if driver == "fake" else ("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    )
    known = control.assign(control.world.order(*command))
    until(lambda: State.STATE_RUNNING in known.states, "running", show=lambda: agent.log)
    control.refusal = Revoked("agents/node-1 is revoked")
    control.poke()
    assert agent.process.wait(30) == 4, "a service manager must not start it again"
    assert known.results == [] and "revoked; ending what runs here" in agent.log
    # Nothing was left for a next process to adopt.
    control.refusal = None
    sessions = len(control.hellos)
    agent.start()
    until(lambda: len(control.hellos) > sessions, "a new session", show=lambda: agent.log)
    assert not control.hellos[-1].status.held
    assert "orphan removed" not in agent.log


def test_a_node_enrols_again_with_new_keys_and_keeps_its_state(
    control: ControlPlane, start: Callable[..., AgentProcess]
) -> None:
    agent = start()
    known = control.assign(control.world.order("fake", "out=hello"))
    until(lambda: known.results, "the result", show=lambda: agent.log)
    state = Path(agent.setting("ANIMUS_AGENT_STATE_DIR"))
    before = (state / "identity" / "attestation.key").read_bytes()
    control.token, control.enroll_answer = control.token.replace("t1", "t2"), None
    with pytest.raises(AssertionError, match="ALREADY_RUNNING"):
        agent.enroll(control, "--replace")
    agent.kill()
    with pytest.raises(AssertionError, match="ALREADY_ENROLLED"):
        agent.enroll(control)
    right, control.token = control.token, "another"
    with pytest.raises(AssertionError):
        agent.enroll(control, "--replace", token=right)
    assert (state / "identity" / "attestation.key").read_bytes() == before, (
        "the one in force stays until the other is whole"
    )
    control.token = right
    agent.enroll(control, "--replace")
    assert (state / "identity" / "attestation.key").read_bytes() != before
    assert (state / "identity.old" / "attestation.key").read_bytes() == before
    assert not (state / "identity.new").exists()
    sessions = len(control.hellos)
    agent.start()
    until(lambda: len(control.hellos) > sessions, "a session with the new keys", show=lambda: agent.log)
    assert control.hellos[-1].spool_id == control.hellos[0].spool_id


def test_a_trust_bundle_does_not_roll_back_by_enrolling_again(control: ControlPlane, tmp_path: Path) -> None:
    clock, root = SystemClock(), control.folder / "root.pub"
    control.sequence = 2
    Identity(tmp_path / "identity", clock, root).enroll(control.enrollment_endpoint, control.token)
    control.sequence, control.enroll_answer = 1, None
    with pytest.raises(IdentityError) as refused:
        enroll_again(tmp_path, clock, root, control.enrollment_endpoint, control.token)
    assert refused.value.reason == "BUNDLE_ROLLBACK"
    assert Identity(tmp_path / "identity", clock, root).bundle().sequence == 2


def test_an_agent_tells_its_own_lines_and_never_what_steps_write(
    control: ControlPlane, start: Callable[..., AgentProcess]
) -> None:
    agent = start()
    known = control.assign(control.world.order("fake", "out=a secret of the step"))
    until(lambda: known.results, "the result", show=lambda: agent.log)
    until(lambda: any(line.message == "attempt ended" for line in control.lines), "its line", show=lambda: agent.log)
    assert any(line.message == "session opened" for line in control.lines)
    assert not any("a secret of the step" in str(line) for line in control.lines)
    assert all(line.level and line.logger.startswith("animus") for line in control.lines)


def test_lines_are_scrubbed_bounded_and_only_ours(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    kept = Diagnostics(clock)
    kept.install()
    logger = get_logger("animus_agent.test")
    try:
        with caplog.at_level(logging.INFO):
            get_logger("somebody.else").info("not ours")
            logger.debug("too small")
            logger.warning("token animus1.abc.secretsecret.pin seen", join_token="hunter2", path="/x", count=3)
            try:
                raise ValueError("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----")
            except ValueError:
                logger.exception("it broke")
        message = kept.take()
        assert message is not None
        warned, broke = message.lines
        assert warned.message == "token [scrubbed] seen" and warned.level == Level.LEVEL_WARNING
        assert dict(warned.fields) == {"join_token": "[scrubbed]", "path": "/x", "count": "3"}
        assert dict(broke.fields) == {"error": "ValueError: [scrubbed]"} and "Traceback" not in str(broke)
        assert kept.take() is None

        with caplog.at_level(logging.INFO):
            for number in range(int(diagnostics.BURST) + 50):
                logger.info(f"line {number}")
            clock.advance(1)
            logger.info("later")
        told = []
        while (message := kept.take()) is not None:
            assert len(message.lines) <= diagnostics.MESSAGE_LINES
            told += message.lines
        assert told[-1].message == "later" and told[0].message == "line 0"
        # What was left out is counted where it is missing.
        assert len(told) + sum(line.dropped_before for line in told) == diagnostics.BURST + 51
    finally:
        kept.uninstall()
