"""A node with devices, as a process: what it announces, runs, adopts and stops offering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_kit.documents import action as actions
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import AgentProcess, ControlPlane, Known, until
from tests.agent.gpus import Rack, requires_nodes, uuid

pytestmark = [requires_runc, requires_nodes]
State = run_pb2.Attempt.State
GPU = actions.Accelerator(kind="gpu", count=1)
BOTH = [uuid("0"), uuid("1")]


@pytest.fixture
def rack(node_dir: Path) -> Rack:
    return Rack(node_dir / "rack")


@pytest.fixture
def agent(control: ControlPlane, rack: Rack, node_dir: Path) -> Iterator[AgentProcess]:
    node = node_dir / "node"
    node.mkdir(mode=0o711)
    process = AgentProcess(
        control,
        node,
        "runc",
        ANIMUS_AGENT_GPUS=str(rack.list),
        ANIMUS_AGENT_CDI_DIRS=str(rack.cdi),
        ANIMUS_AGENT_GPU_INTERVAL="200ms",
    )
    yield process
    process.close()


def ask(control: ControlPlane, number: str, script: str, **changes) -> Known:
    order = control.world.order("/bin/sh", "-c", script, gpus=[uuid(number)], action={"accelerator": GPU}, **changes)
    return control.assign(order)


def wait(agent: AgentProcess, condition: Callable[[], object], what: str) -> None:
    until(condition, what, 60.0, show=lambda: agent.log)


def test_a_node_announces_its_devices_and_gives_each_to_one_step(
    control: ControlPlane, agent: AgentProcess, rack: Rack, node_dir: Path
) -> None:
    wait(agent, lambda: control.hellos, "hello")
    node = control.hellos[0].node
    assert [(g.uuid, g.model, g.driver_version) for g in node.gpus] == [
        (uuid("0"), "Example X000", "1.2.3"),
        (uuid("1"), "Example X100", "1.2.3"),
    ]
    capabilities = {one.name: one for one in node.capabilities}
    assert capabilities["gpu-devices"].available, capabilities["gpu-devices"].message
    assert list(control.hellos[0].status.room.gpu_uuids) == BOTH

    # Until the test lets it go, however long the machine takes meanwhile.
    long = ask(control, "0", "ls /dev; until [ -e /animus/outputs/o/go ]; do sleep 0.05; done", outputs=("o",))
    wait(agent, lambda: State.STATE_RUNNING in long.states, "running")
    wait(agent, lambda: list(control.room.gpu_uuids) == [uuid("1")], "its device taken")
    # The control plane gives it again, as no honest one would.
    double = ask(control, "0", "true")
    wait(agent, lambda: double.results, "a refusal")
    assert double.results[0].reason == "GPU_IN_USE" and double.states == [State.STATE_PREPARING]
    unknown = ask(control, "7", "true")
    wait(agent, lambda: unknown.results, "a refusal")
    assert unknown.results[0].reason == "GPU_UNKNOWN"

    # Killed and started again: the container runs on, and its device stays its own.
    agent.kill()
    agent.start()
    wait(agent, lambda: len(control.hellos) == 2, "the second hello")
    assert list(control.hellos[1].status.room.gpu_uuids) == [uuid("1")]
    again = ask(control, "0", "true")
    wait(agent, lambda: again.results, "a refusal")
    assert again.results[0].reason == "GPU_IN_USE"
    (outputs,) = (node_dir / "node" / "state" / "volumes").glob("v*/animus/outputs/o")
    (outputs / "go").write_text("go")
    wait(agent, lambda: long.results, "the result")
    assert long.results[0].state == State.STATE_SUCCEEDED, agent.log[-3000:]
    assert b"test0\n" in long.text and b"test1\n" not in long.text
    assert SandboxReport.from_bytes(long.results[0].sandbox_report).gpus == (uuid("0"),)
    wait(agent, lambda: list(control.room.gpu_uuids) == BOTH, "both free")

    # A device that fails leaves the room at once.
    rack.listed({"0": "XID 79", "1": ""})
    wait(agent, lambda: list(control.room.gpu_uuids) == [uuid("1")], "one left")
    sick = ask(control, "0", "true")
    wait(agent, lambda: sick.results, "a refusal")
    assert sick.results[0].reason == "GPU_UNHEALTHY" and "XID 79" in sick.results[0].message
