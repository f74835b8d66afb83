"""A GPU pipeline from HTTP to the sandbox report: placed on the node with devices, given by UUID, exclusive, recorded.

The devices are stand-ins (tests/agent/gpus.py); all else is what runs in production.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from animus_cli.stack.layout import Layout
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract
from animus_kit.documents.sandbox import SandboxReport
from tests.agent.gpus import Rack, requires_nodes, uuid
from tests.system.world import Client, Project, pipeline, step, wait_for

pytestmark = requires_nodes
NODE = "accelerated"


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    folder = Path(tempfile.mkdtemp(prefix="an-gpu-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield Rack(folder / "rack")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def node(layout: Layout, operator: Client, rack: Rack) -> Iterator[Path]:
    """A second agent of this machine, with devices. Answers its log."""
    folder = rack.folder.parent / "node"
    folder.mkdir(mode=0o711)
    environment = {
        "PATH": os.environ["PATH"],
        "ANIMUS_AGENT_STATE_DIR": str(folder / "state"),
        "ANIMUS_AGENT_RUN_DIR": str(folder / "run"),
        "ANIMUS_AGENT_ROOT_KEY": str(layout.pki / "root.pub"),
        "ANIMUS_AGENT_GPUS": str(rack.list),
        "ANIMUS_AGENT_CDI_DIRS": str(rack.cdi),
        "ANIMUS_AGENT_GPU_INTERVAL": "500ms",
    }
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(operator.ok("POST", "/orchestrator/v1/joinTokens", {"agentId": NODE})["token"])

    def call(*arguments: str) -> None:
        command = [sys.executable, "-m", "animus_agent", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr

    call("enroll", layout.address("enrollment"), "--token-file", str(token))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "animus_agent", "run"], env=environment, stderr=output)
    try:
        path = f"/orchestrator/v1/agents/{NODE}"
        wait_for(lambda: operator.ok("GET", path).get("state") == "STATE_ONLINE", 90, "the node to come online")
        yield log
    finally:
        process.terminate()
        process.wait(60)
        call("purge")
        # Later stories must find no node that holds nothing any more.
        operator.ok("POST", f"/orchestrator/v1/agents/{NODE}:revoke", {"reason": "the story is over"})


def gpu_step(name: str, image: str, script: str, **more: Any) -> dict[str, Any]:
    return step(name, image, script, **more) | {"resources": {"cpu": "0.5", "memory": "64Mi", "gpu": 1}}


def attempt_of(project: Project, run: str, name: str) -> Any:
    return project.client.ok("GET", f"/orchestrator/v1/{run}/steps/{name}/attempts/1")


def test_three_steps_share_two_devices_one_at_a_time(
    project: Project, image: str, node: Path, rack: Rack, operator: Client
) -> None:
    shown = operator.ok("GET", f"/orchestrator/v1/agents/{NODE}")["claimed"]
    assert {g["uuid"]: g["model"] for g in shown["gpus"]} == {uuid("0"): "Example X000", uuid("1"): "Example X100"}
    script = 'echo "$CUDA_VISIBLE_DEVICES" > /animus/outputs/seen/which; ls /dev > /animus/outputs/seen/nodes; sleep 1'
    names = ("a", "b", "c")
    document = pipeline(*(gpu_step(name, image, script, outputs=["seen"]) for name in names))
    run = project.submit(project.apply("three", document), {})["name"]
    ended = project.wait(run, 180)
    assert ended["state"] == "STATE_SUCCEEDED", (ended, node.read_text()[-3000:])

    spans: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        attempt = attempt_of(project, run, name)
        assert attempt["agent"] == f"agents/{NODE}", "the node without devices must not have it"
        contract = Contract.from_bytes(dsse.open_unverified(base64.b64decode(attempt["contract"]), Contract.NOUN)[0])
        report = SandboxReport.from_bytes(base64.b64decode(attempt["sandboxReport"]))
        assert report.gpus == contract.gpu_uuids and len(report.gpus) == 1
        assert {g.uuid for g in report.host.gpus} == {uuid("0"), uuid("1")}
        assert contract.required_capabilities.count("gpu-devices") == 1
        spans.setdefault(report.gpus[0], []).append((attempt["startTime"], attempt["endTime"]))
    assert set(spans) == {uuid("0"), uuid("1")}
    for times in spans.values():
        ordered = sorted(times)
        assert all(end <= begin for (_, end), (begin, _) in zip(ordered, ordered[1:], strict=False)), spans


def test_a_step_waits_for_a_model_that_is_there_and_says_so_of_one_that_is_not(
    project: Project, image: str, node: Path, rack: Rack
) -> None:
    document = pipeline(gpu_step("only", image, "ls /dev")) | {"apiVersion": "animus/v1"}
    document["spec"]["steps"][0]["accelerator"] = {"kind": "gpu", "model": "X100"}
    run = project.submit(project.apply("model", document), {})["name"]
    assert project.wait(run)["state"] == "STATE_SUCCEEDED"
    report = SandboxReport.from_bytes(base64.b64decode(attempt_of(project, run, "only")["sandboxReport"]))
    assert report.gpus == (uuid("1"),)

    document["spec"]["steps"][0]["accelerator"]["kind"] = "tpu"
    version = project.apply("kind", document)
    body = {"pipelineVersion": version, "bindings": {}}
    answer = project.client.send("POST", f"/orchestrator/v1/{project.name}/runs", body)
    assert answer.status == 400 and answer.reason == "RUN_NOT_PLANNABLE", answer.body
    assert b"FEATURE_NOT_AVAILABLE" in answer.body


def test_a_device_that_fails_takes_no_more_work(project: Project, image: str, node: Path, rack: Rack) -> None:
    document = pipeline(gpu_step("only", image, "true"))
    rack.listed({"0": "XID 79", "1": ""})
    version = project.apply("sick", document)
    for _ in range(2):
        run = project.submit(version, {})["name"]
        assert project.wait(run)["state"] == "STATE_SUCCEEDED"
        report = SandboxReport.from_bytes(base64.b64decode(last_attempt(project, run)["sandboxReport"]))
        assert report.gpus == (uuid("1"),)


def last_attempt(project: Project, run: str) -> Any:
    """A contract that was under way when the device failed is refused by the node, and the step tried again."""
    number = project.steps(run)["only"]["currentAttempt"]
    return project.client.ok("GET", f"/orchestrator/v1/{run}/steps/only/attempts/{number}")
