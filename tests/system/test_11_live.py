"""While a step runs: its log within a second and from any byte on, and an input that changes under it."""

from __future__ import annotations

import base64
import hashlib
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from animus_cli.stack import stack as stacks
from animus_cli.stack.layout import Layout
from tests.system.world import Client, Project, pipeline, step, wait_for

BEATS = 20
LINES = 100_000
LINE = "%06d 0123456789012345678901234567890123456789"


def uptime() -> float:
    """On the one clock that a container shares with us."""
    return float(Path("/proc/uptime").read_text().split()[0])


def submit(project: Project, image: str, name: str, script: str, **more: Any) -> str:
    """Answers the name of the first attempt of the only step, once there is one."""
    version = project.apply(name, pipeline(step("only", image, script, **more)))
    run = project.submit(version, more.get("bound", {}), runId=name)["name"]
    wait_for(lambda: attempts(project.client, run), 60, "an attempt")
    return f"{run}/steps/only/attempts/1"


def attempts(operator: Client, run: str) -> list[Any]:
    return operator.ok("GET", f"/orchestrator/v1/{run}/steps/only/attempts").get("attempts", [])


def run_of(attempt: str) -> str:
    return attempt.partition("/steps/")[0]


def test_a_line_is_read_within_a_second_of_being_written(operator: Client, project: Project, image: str) -> None:
    script = f"i=0; while [ $i -lt {BEATS} ]; do i=$((i+1)); cat /proc/uptime; sleep 0.2; done"
    attempt = submit(project, image, "beats", script)
    late: list[float] = []
    with operator.lines(f"/orchestrator/v1/{attempt}:logs", follow="true") as messages:
        for message in messages:
            now = uptime()
            text = base64.b64decode(message.get("data", "")).decode()
            late += [now - float(line.split()[0]) for line in text.splitlines()]
    assert len(late) == BEATS
    # The machine that runs the tests does other things meanwhile: not each, but as a rule.
    assert statistics.median(late) < 1.0, late


def test_a_burst_is_whole_however_often_the_reader_is_cut(operator: Client, project: Project, image: str) -> None:
    """Megabytes at once, read from the byte where the last reader stopped."""
    count = f'BEGIN {{ for (i = 1; i <= {LINES}; i++) printf "{LINE}\\n", i }}'
    script = f"awk '{count}'; echo the end"
    attempt = submit(project, image, "burst", script)
    expected = "".join(f"{LINE % number}\n" for number in range(1, LINES + 1)).encode() + b"the end\n"
    received, cuts, final = bytearray(), 0, False
    while not final:
        taken = 0
        query = {"follow": "true", "offsetBytes": len(received)}
        with operator.lines(f"/orchestrator/v1/{attempt}:logs", **query) as messages:
            for message in messages:
                data = base64.b64decode(message.get("data", ""))
                assert int(message.get("offsetBytes", 0)) == len(received) and not message.get("truncated")
                received += data
                taken += len(data)
                if final := message.get("final", False):
                    break
                if taken > 700_000:
                    cuts += 1
                    break
    assert len(expected) > 4 << 20 and cuts >= 5
    assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()


def test_the_command_line_follows_through_a_killed_server(
    layout: Layout, operator: Client, project: Project, image: str
) -> None:
    script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
    attempt = submit(project, image, "followed", script)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANIMUS_")},
        "ANIMUS_DIR": str(layout.root),
        "ANIMUS_PROJECT": project.id,
    }
    command = [sys.executable, "-m", "animus_cli.main", "run", "logs", run_of(attempt).rpartition("/")[2], "-f"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        first = follower.stdout.readline()
        stacks.restart(layout, "orchestrator", kill=True)
        rest = follower.stdout.read()
    assert follower.returncode == 0
    assert (first + rest).split() == [str(number).encode() for number in range(1, 61)]


def test_an_input_that_changes_under_a_run_taints_it(
    layout: Layout, operator: Client, project: Project, image: str
) -> None:
    """By root, from outside. Nothing of that attempt is taken; the next one fetches what was damaged anew."""
    version = project.push_dataset("words", {"a": b"original\n"})
    script = """
        echo ready
        i=0; while [ $i -lt 30 ] && [ "$(cat /animus/inputs/words/a)" = original ]; do i=$((i+1)); sleep 0.1; done
        cat /animus/inputs/words/a > /animus/outputs/out/a
    """
    document = pipeline(step("only", image, script, datasets={"words": "words"}, outputs=["out"], attempts=2))
    run = project.submit(project.apply("tainted", document), {"words": version}, runId="tainted")["name"]
    attempt = f"{run}/steps/only/attempts/1"
    wait_for(lambda: attempts(operator, run), 60, "an attempt")
    with operator.lines(f"/orchestrator/v1/{attempt}:logs", follow="true") as messages:
        next(message for message in messages if b"ready" in base64.b64decode(message.get("data", "")))
    (path,) = [p for p in (layout.agent / "trees").glob("*/tree/a") if p.read_bytes() == b"original\n"]
    path.chmod(0o644)
    path.write_bytes(b"tampered\n")
    assert project.wait(run)["state"] == "STATE_SUCCEEDED"
    first, second = sorted(attempts(operator, run), key=lambda one: one["name"])
    assert (first["state"], first["failureClass"], first["stateReason"]) == (
        "STATE_FAILED", "FAILURE_CLASS_TAINTED", "INPUT_CHANGED",
    )  # fmt: skip
    assert second["state"] == "STATE_SUCCEEDED"
    assert "provenance" not in first and not first.get("outputs")
    (output,) = project.steps(run)["only"]["outputs"]
    found = wait_for(
        lambda: next((a for a in artifacts(operator, project) if a["name"] == output["artifact"]), None), 30, "it"
    )
    # The one artifact there is holds what the dataset holds; of the tampered bytes there is none to register.
    assert artifacts(operator, project) == [found]
    body = operator.send("GET", f"/catalog/v1/{found['name']}:download", query={"path": "a"}).body
    assert body == b"original\n"


def artifacts(operator: Client, project: Project) -> list[Any]:
    return operator.ok("GET", f"/catalog/v1/{project.name}/artifacts").get("artifacts", [])


def test_a_tainted_run_has_nothing_to_promote(layout: Layout, operator: Client, project: Project, image: str) -> None:
    version = project.push_dataset("only-once", {"b": b"once\n"})
    script = (
        'echo ready; while [ "$(cat /animus/inputs/d/b)" = once ]; do sleep 0.1; done; echo 1 > /animus/outputs/out/x'
    )
    document = pipeline(step("only", image, script, datasets={"d": "d"}, outputs=["out"], attempts=1))
    run = project.submit(project.apply("tainted-once", document), {"d": version}, runId="tainted-once")["name"]
    wait_for(lambda: attempts(operator, run), 60, "an attempt")
    with operator.lines(f"/orchestrator/v1/{run}/steps/only/attempts/1:logs", follow="true") as messages:
        next(message for message in messages if b"ready" in base64.b64decode(message.get("data", "")))
    (path,) = [p for p in (layout.agent / "trees").glob("*/tree/b") if p.read_bytes() == b"once\n"]
    path.chmod(0o644)
    path.write_bytes(b"twice\n")
    ended = project.wait(run)
    assert (ended["state"], ended["stateReason"]) == ("STATE_FAILED", "INPUT_CHANGED")
    assert not project.steps(run)["only"].get("outputs")
    assert not [a for a in artifacts(operator, project) if "tainted-once" in a["name"]]


pytestmark = pytest.mark.usefixtures("layout")
