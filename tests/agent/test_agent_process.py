"""The agent as a process, against a control plane that loses messages, and against its own sudden deaths."""

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_agent.errors import IdentityError
from animus_agent.identity import Identity
from animus_kit import pki
from animus_kit.clock import SystemClock
from animus_kit.testing.clock import FakeClock
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import AgentProcess, ControlPlane, Intent, until

State = run_pb2.Attempt.State
Failure = run_pb2.Attempt.FailureClass


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


def test_lost_and_doubled_messages_change_nothing(control: ControlPlane, start: Callable[..., AgentProcess]) -> None:
    control.lose = lambda n: n % 3 == 0
    control.double = lambda n: n % 5 == 0
    agent = start()
    tree = control.world.blobs.put_tree({"a": b"alpha"})
    every = [
        control.assign(
            control.world.order(
                "fake", "out=hello", "write=/animus/outputs/o/x:text", outputs=("o",), inputs={"data": tree}
            )
        )
        for _ in range(20)
    ]
    until(lambda: all(known.results for known in every), "20 results", show=lambda: agent.log)
    for known in every:
        assert [result.state for result in known.results] == [State.STATE_SUCCEEDED], known.results
        assert known.states == [State.STATE_PREPARING, State.STATE_RUNNING, State.STATE_FINISHING]
        assert known.text == b"hello\n"
        assert known.results[0].outputs[0].manifest_digest in control.world.blobs.sealed
    until(lambda: not control.held, "all forgotten", show=lambda: agent.log)


def test_lost_news_is_told_again(control: ControlPlane, start: Callable[..., AgentProcess]) -> None:
    """Also the very last, behind which nothing comes that could show the hole."""
    control.miss = lambda n: n % 3 != 0
    agent = start()
    every = [control.assign(control.world.order("fake", "out=hello", "seconds=0.2")) for _ in range(10)]
    until(lambda: all(known.results for known in every), "10 results", show=lambda: agent.log)
    for known in every:
        assert [result.state for result in known.results] == [State.STATE_SUCCEEDED], known.results
        assert known.states == [State.STATE_PREPARING, State.STATE_RUNNING, State.STATE_FINISHING]
        assert known.text == b"hello\n"
    until(lambda: not control.held, "all forgotten", show=lambda: agent.log)


def test_cancel_and_stale(control: ControlPlane, start: Callable[..., AgentProcess]) -> None:
    agent = start()
    canceled = control.assign(control.world.order("fake", "seconds=60"))
    stale = control.assign(control.world.order("fake", "seconds=60"))
    running = State.STATE_RUNNING
    until(lambda: running in canceled.states and running in stale.states, "both running", show=lambda: agent.log)
    canceled.intent, stale.intent = Intent.INTENT_CANCEL, Intent.INTENT_STALE
    control.poke()
    until(lambda: canceled.results and not control.held, "the end of both", show=lambda: agent.log)
    assert canceled.results[0].state == State.STATE_CANCELED
    assert stale.results == []


@requires_runc
def test_an_agent_that_cannot_renew_fences_itself_and_goes_on_when_it_can(
    control: ControlPlane, start: Callable[..., AgentProcess]
) -> None:
    control.lease = 3.0
    agent = start("runc")
    script = (
        "echo begin; i=0; while [ ! -e /tmp/x ]; do i=$((i+1)); echo $i; sleep 0.05; [ $i = 100 ] && : > /tmp/x; done"
    )
    known = control.assign(control.world.order("/bin/sh", "-c", script))
    until(lambda: b"begin" in known.text, "running", show=lambda: agent.log)
    control.silent = True
    until(lambda: "the container stands still" in agent.log, "the fence", show=lambda: agent.log)
    control.silent = False
    # A new process, since this control plane forgot what it swallowed while it was silent.
    agent.kill()
    agent.start()
    until(lambda: known.results, "the report", show=lambda: agent.log)
    assert "the container goes on" in agent.log
    assert known.results[0].state == State.STATE_SUCCEEDED, known.results
    assert known.text.split() == [b"begin", *(str(i).encode() for i in range(1, 101))]


def test_what_stands_still_too_long_is_given_up(control: ControlPlane, start: Callable[..., AgentProcess]) -> None:
    control.lease = 3.0
    agent = start(ANIMUS_AGENT_FENCED_LIMIT="1s")
    known = control.assign(control.world.order("fake", "seconds=60"))
    until(lambda: State.STATE_RUNNING in known.states, "running", show=lambda: agent.log)
    control.silent = True
    until(lambda: "attempt ended" in agent.log, "the end", show=lambda: agent.log)
    # A new process, since this control plane forgot what it swallowed while it was silent.
    control.silent = False
    agent.kill()
    agent.start()
    until(lambda: known.results, "the report", show=lambda: agent.log)
    assert (known.results[0].failure_class, known.results[0].reason) == (
        Failure.FAILURE_CLASS_LOST_NODE,
        "LEASE_EXPIRED",
    )


def test_room_is_told_and_a_doubled_assignment_is_taken_once(
    control: ControlPlane, start: Callable[..., AgentProcess]
) -> None:
    agent = start(ANIMUS_AGENT_MAX_ATTEMPTS="3", ANIMUS_AGENT_CPU_MILLIS="1500")
    until(lambda: control.hellos, "hello", show=lambda: agent.log)
    room = control.hellos[0].status.room
    assert (room.attempts, room.cpu_millis) == (3, 1500)
    node = control.hellos[0].node
    assert {"seccomp", "network-none", "memory-limit"} <= {c.name for c in node.capabilities if c.available}


@requires_runc
def test_memory_at_rest(control: ControlPlane, start: Callable[..., AgentProcess]) -> None:
    """Canaries done, connected, after some work. Its own memory, and with its share of the libraries that others map too."""
    agent = start("runc")
    every = [control.assign(control.world.order("/bin/sh", "-c", "yes | head -c 500000")) for _ in range(3)]
    until(lambda: all(known.results for known in every) and not control.held, "three results", show=lambda: agent.log)

    def kilobytes(field: str) -> int:
        for line in Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
        raise AssertionError(field)

    until(lambda: kilobytes("Anonymous") <= 40_000, f"{kilobytes('Anonymous')} kB of its own to be less")
    assert kilobytes("Pss") <= 60_000


@requires_runc
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_agent_adopts_what_kept_running(
    control: ControlPlane, start: Callable[..., AgentProcess], end: signal.Signals
) -> None:
    agent = start("runc")
    script = "echo begin; i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo done"
    script += "; echo x >> /animus/outputs/o/runs"
    known = control.assign(control.world.order("/bin/sh", "-c", script, outputs=("o",)))
    until(lambda: b"begin" in known.text, "the first line", show=lambda: agent.log)
    agent.kill(end)
    agent.start()
    until(lambda: known.results, "the result", show=lambda: agent.log)
    assert known.results[0].state == State.STATE_SUCCEEDED, known.results
    # Once, and the log whole: it went on at the byte where it stopped.
    assert known.text.split() == [b"begin", *(str(i).encode() for i in range(1, 21)), b"done"]
    manifest = control.world.blobs.written[known.results[0].outputs[0].manifest_digest]
    assert b'"size":"2"' in manifest
    assert len(set(control.instances)) == 2


def test_a_lost_answer_to_enrolment_is_asked_for_again(control: ControlPlane, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity", SystemClock(), control.folder / "root.pub")
    answer, control.token = control.token, "another"
    with pytest.raises(IdentityError):
        identity.enroll(control.enrollment_endpoint, answer)
    control.token = answer
    assert identity.enroll(control.enrollment_endpoint, answer).agent == "agents/node-1"
    with pytest.raises(IdentityError) as refused:
        identity.enroll(control.enrollment_endpoint, answer)
    assert refused.value.reason == "ALREADY_ENROLLED"


def test_a_wrong_pin_sends_nothing(control: ControlPlane, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity", SystemClock())
    prefix, _, _ = control.token.rpartition(".")
    with pytest.raises(IdentityError) as refused:
        identity.enroll(control.enrollment_endpoint, f"{prefix}.{control.agents.pin}")
    assert refused.value.reason == "PIN_MISMATCH"
    assert control.used_by is None


def test_renewal_is_due_from_a_third_and_swaps_key_and_certificate(control: ControlPlane, tmp_path: Path) -> None:
    clock = FakeClock()
    identity = Identity(tmp_path / "identity", clock, control.folder / "root.pub")
    identity.enroll(control.enrollment_endpoint, control.token)
    begin, end = identity.lifetime()
    clock.set_wall(begin + pki.BACKDATE + timedelta(hours=7))
    assert not identity.renewal_due()
    clock.set_wall(begin + pki.BACKDATE + timedelta(hours=9))
    assert identity.renewal_due()
    key, csr = identity.new_csr()
    with pytest.raises(IdentityError):
        identity.install(key, control.certify(pki.new_csr()[1]))
    before = identity.tls()
    identity.install(key, control.certify(csr))
    assert identity.tls().cert != before.cert and before.cert.exists()
    assert end <= identity.lifetime()[1]


def test_trust_bundles_only_go_forward(control: ControlPlane, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity", SystemClock(), control.folder / "root.pub")
    control.sequence = 5
    identity.enroll(control.enrollment_endpoint, control.token)
    assert not identity.take_bundle(control.bundle())
    control.sequence = 6
    assert identity.take_bundle(control.bundle())
    control.sequence = 4
    with pytest.raises(IdentityError) as refused:
        identity.take_bundle(control.bundle())
    assert refused.value.reason == "BUNDLE_ROLLBACK"
    control.sequence, control.root = 9, pki.new_signing_key()
    with pytest.raises(IdentityError):
        identity.take_bundle(control.bundle())
    assert identity.bundle().sequence == 6
