"""The attempt's step list in real containers: what a step sees, and every way it can end."""

import json
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from animus_agent.attempt import steps
from animus_agent.attempt.failure import CANCELED, STALE, FailureClass
from animus_agent.attempt.ports import Result
from animus_agent.testing import EPOCH, MemoryReporter, World, limits
from animus_kit.documents import manifest
from animus_kit.documents.contract import Contract, Resources
from animus_kit.documents.result import check_against, open_provenance
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.testing.fixtures import requires_runc

pytestmark = requires_runc


def sh(script: str) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", script)


def run(world: World, *command: str, **changes) -> tuple[Result, MemoryReporter]:
    reporter = MemoryReporter()
    attempt = world.attempt(world.order(*command, **changes), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    assert len(reporter.results) == 1
    return reporter.results[0], reporter


def failed(world: World, *command: str, **changes) -> tuple[FailureClass, str]:
    result, _ = run(world, *command, **changes)
    assert result.failure is not None
    assert not result.outputs and not result.provenance
    return result.failure.failure_class, result.failure.reason


def test_inputs_code_parameters_outputs_metrics_and_evidence(runc_world: World) -> None:
    data = runc_world.blobs.put_tree({"a.txt": b"alpha", "sub/b.txt": b"beta"})
    code = runc_world.blobs.put_tree({"main.sh": b"#!/bin/sh\ncat params.txt", "params.txt": b"x"}, manifest.CODE)
    script = """
        cat /animus/inputs/data/sub/b.txt /animus/params.json; echo oops >&2
        /animus/code/main.sh && pwd && stat -c '%a %u %Y' /animus/inputs/data/a.txt
        echo out > /animus/outputs/model/weights.bin; mkdir /animus/outputs/model/d; echo 1 > /animus/outputs/model/d/x
        echo '{"accuracy": 0.5, "n": 3}' > /animus/metrics.json
        echo '{"name": "loss", "step": 1, "value": 0.25}' > /animus/metrics.jsonl
    """
    order = runc_world.order(
        *sh(script), inputs={"data": data}, code=code, outputs=("model",), parameters={"lr": 0.1, "seed": 2**60}
    )
    reporter = MemoryReporter()
    attempt = runc_world.attempt(order, reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    result = reporter.results[0]
    assert result.failure is None, (result.failure, reporter.text)
    assert reporter.states == ["PREPARING", "RUNNING", "FINISHING"]
    # Of one stream: the order between the two is conmon's.
    text = b"".join(chunk.data for chunk in reporter.chunks if not chunk.stderr).decode()
    assert f'beta{{"lr": 0.1, "seed": {2**60}}}' in text and "x/animus/code" in text.replace("\n", "")
    assert f"444 65534 {EPOCH}" in text and b"oops\n" in [c.data for c in reporter.chunks if c.stderr]
    assert result.metrics == {"accuracy": 0.5, "n": 3.0}
    assert [(p.name, p.step, p.value) for p in reporter.found] == [("loss", 1, 0.25)]
    (output,) = result.outputs
    assert (output.name, output.files) == ("model", 2)
    assert runc_world.blobs.sealed == [output.manifest]
    paths = [e.path for e in manifest.loads(runc_world.blobs.written[output.manifest], manifest.ARTIFACT)]
    assert paths == ["d/x", "weights.bin"]
    statement, _ = open_provenance(result.provenance, [runc_world.attestation_key.public_key()])
    check_against(statement, attempt.order, [output])
    report = SandboxReport.from_bytes(result.sandbox_report)
    assert report.counters["oom-kills"] == 0 and report.runtime.startswith("runc")
    assert isinstance(attempt.order, Contract)


def test_the_environment_is_exactly_the_declared_one(runc_world: World) -> None:
    result, reporter = run(runc_world, "/bin/env", env={"MINE": "1"})
    assert result.failure is None
    names = {line.split("=")[0] for line in reporter.text.decode().splitlines()}
    assert names == {
        "HOME", "LANG", "LC_ALL", "PATH", "PYTHONHASHSEED", "TZ", "MINE", "SOURCE_DATE_EPOCH",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    }  # fmt: skip


def test_the_isolation_that_a_step_sees(runc_world: World) -> None:
    script = """
        cat /proc/self/status; cat /proc/net/dev | wc -l; id -u; readlink /proc/self/ns/user
        touch /x 2>&1; touch /animus/params.json 2>&1; ls /animus /dev; echo $(cat /proc/sys/kernel/hostname)
        mknod /tmp/null c 1 3 2>&1; mount -t tmpfs x /tmp 2>&1; true
    """
    result, reporter = run(runc_world, *sh(script))
    text = reporter.text.decode()
    assert result.failure is None, text
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in text
    assert "Read-only file system" in text and "/animus/params.json: Permission denied" in text
    assert text.count("Operation not permitted") == 2 or text.count("ermission denied") >= 2
    assert "\nanimus\n" in text


@pytest.mark.parametrize(
    ("script", "changes", "expected"),
    [
        ("exit 3", {}, (FailureClass.USER_ERROR, "NONZERO_EXIT")),
        ("exec /nope", {}, (FailureClass.USER_ERROR, "NONZERO_EXIT")),
        ("x=a; while true; do x=$x$x; done", {"memory": 32 << 20}, (FailureClass.OUT_OF_MEMORY, "OUT_OF_MEMORY")),
        (
            # A child dies of it, the first process says that all is well.
            "sh -c 'x=a; while true; do x=$x$x; done'; exit 0",
            {"memory": 32 << 20},
            (FailureClass.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        ),
        ("trap '' TERM; sleep 60", {"timeout": 1, "grace": 0}, (FailureClass.TIMEOUT, "TIMEOUT")),
        ("yes 0123456789012345678901234567890123456789", {"limits": limits(log_bytes=65536)},
         (FailureClass.LOG_LIMIT, "LOG_LIMIT")),
        ("dd if=/dev/zero of=/animus/outputs/o/x bs=1048576", {"outputs": ("o",), "limits": limits(output_bytes=16 << 20)},
         (FailureClass.DISK_LIMIT, "OUTPUT_VOLUME_FULL")),
        ("true", {"outputs": ("o",)}, (FailureClass.USER_ERROR, "OUTPUT_MISSING")),
        ("ln -s /etc/passwd /animus/outputs/o/x", {"outputs": ("o",)},
         (FailureClass.USER_ERROR, "OUTPUT_SYMLINK_REFUSED")),
        ("mkfifo /animus/outputs/o/x", {"outputs": ("o",)}, (FailureClass.USER_ERROR, "OUTPUT_SPECIAL_FILE")),
        ("echo 1 > /animus/outputs/o/x; ln /animus/outputs/o/x /animus/outputs/o/y", {"outputs": ("o",)},
         (FailureClass.USER_ERROR, "OUTPUT_HARD_LINK")),
        ("echo '{\"a\": NaN}' > /animus/metrics.json", {}, (FailureClass.USER_ERROR, "METRICS_INVALID")),
        ("ln -s /etc/passwd /animus/metrics.json", {}, (FailureClass.USER_ERROR, "METRICS_INVALID")),
    ],
)  # fmt: skip
def test_failure_classes(runc_world: World, script: str, changes: dict, expected: tuple) -> None:
    assert failed(runc_world, *sh(script), **changes) == expected


def test_a_command_that_is_not_in_the_image_is_the_users_error(runc_world: World) -> None:
    assert failed(runc_world, "/nope") == (FailureClass.USER_ERROR, "COMMAND_NOT_RUNNABLE")


def _while_running(world: World, script: str, act, **changes) -> tuple[MemoryReporter, object]:
    """Runs the attempt in a thread, and acts once the step has said `ready`."""
    reporter = MemoryReporter()
    attempt = world.attempt(world.order(*sh(script), **changes), reporter)
    thread = threading.Thread(target=steps.execute, args=(attempt,))
    thread.start()
    deadline = time.monotonic() + 20
    while b"ready" not in reporter.text and time.monotonic() < deadline and thread.is_alive():
        thread.join(0.02)
    act(attempt)
    thread.join(20)
    assert not thread.is_alive()
    return reporter, attempt


def test_cancel_sends_term_and_then_kill(runc_world: World) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.05; done"
    reporter, _ = _while_running(runc_world, script, lambda a: a.kill(CANCELED))
    assert reporter.results[0].failure == CANCELED
    assert b"bye" in reporter.text


def test_a_stale_attempt_is_killed_and_reports_nothing(runc_world: World) -> None:
    reporter, attempt = _while_running(runc_world, "echo ready; sleep 60", lambda a: a.kill(STALE))
    assert reporter.results == []
    assert runc_world.driver.status(attempt.handle).value == "EXITED"


def test_an_input_that_changes_during_the_run_taints(runc_world: World) -> None:
    data = runc_world.blobs.put_tree({"a.txt": b"alpha"})

    def tamper(attempt) -> None:
        path = attempt.trees["inputs/data"].path / "a.txt"
        path.chmod(0o644)
        path.write_bytes(b"ALPHA")

    script = "echo ready; while grep -q alpha /animus/inputs/data/a.txt; do sleep 0.05; done"
    script = script.replace("grep -q alpha /animus/inputs/data/a.txt", '[ "$(cat /animus/inputs/data/a.txt)" = alpha ]')
    reporter, _ = _while_running(runc_world, script, tamper, inputs={"data": data})
    assert (reporter.results[0].failure.failure_class, reporter.results[0].failure.reason) == (
        FailureClass.TAINTED,
        "INPUT_CHANGED",
    )


def test_conmons_death_loses_the_container_and_kills_it(runc_world: World) -> None:
    import os
    import signal

    def kill_conmon(attempt) -> None:
        os.kill(int((attempt.directory.path / "conmon.pid").read_text()), signal.SIGKILL)

    reporter, attempt = _while_running(runc_world, "echo ready; sleep 60", kill_conmon)
    assert reporter.results[0].failure.failure_class is FailureClass.LOST_CONTAINER
    steps.clean_up(attempt)
    assert attempt.directory.id not in runc_world.driver.ids()


def test_json_of_a_handle_survives(runc_world: World) -> None:
    from animus_agent.sandbox.driver import Handle

    handle = Handle("runc", "an-1", "/x", "boot", {"a": "b"})
    assert Handle.from_json(handle.to_json()) == handle
    with pytest.raises(ValueError):
        Handle.from_json(json.dumps({"version": 99}))


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        ({"resources": Resources(cpu_millis=1, memory_bytes=1 << 20, gpu=1)}, "GPU_UNASSIGNED"),
        ({"required_capabilities": ("quantum",)}, "CAPABILITY_MISSING"),
        ({"agent": "agents/another"}, "WRONG_AGENT"),
        ({"grant_digest": "sha256:" + "0" * 64}, "GRANT_MISMATCH"),
    ],
)
def test_contracts_that_are_refused_start_nothing(runc_world: World, contract: dict, reason: str) -> None:
    assert failed(runc_world, "/bin/true", contract=contract) == (FailureClass.INFRASTRUCTURE, reason)
    assert runc_world.driver.ids() == set()


def test_a_contract_by_a_stranger_is_refused(runc_world: World) -> None:
    order = runc_world.order("/bin/true")
    runc_world.contract_key = Ed25519PrivateKey.generate()
    reporter = MemoryReporter()
    steps.execute(runc_world.attempt(order, reporter))
    assert reporter.results[0].failure.reason == "KEY_UNKNOWN"
