"""Devices in real containers: a step sees exactly its own, opens them, and reaches no others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from animus_agent import inventory, node
from animus_agent.attempt import steps
from animus_agent.attempt.failure import FailureClass
from animus_agent.attempt.ports import Result
from animus_agent.gpu import canary, layer
from animus_agent.sandbox.quota import mounted
from animus_agent.testing import MemoryReporter, World
from animus_kit.documents import action as actions
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.testing.fixtures import requires_runc
from tests.agent.gpus import Rack, requires_nodes, uuid

pytestmark = [requires_runc, requires_nodes]
GPU = actions.Accelerator(kind="gpu", count=1)
# Opening a node for reading and writing is all that a driver's library does at first.
OPEN = 'open() { ( exec 3<>"$1" ) 2>&1 && echo "opened $1"; }; '


@pytest.fixture
def rack(node_dir: Path) -> Rack:
    return Rack(node_dir / "rack")


@pytest.fixture
def world(runc_world: World, rack: Rack) -> Iterator[World]:
    runc_world.gpus = rack.pool()
    runc_world.features = ("network-none", "gpu-devices")
    yield runc_world
    runc_world.gpus.close()


def sh(script: str) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", script)


def run(world: World, script: str, *gpus: str, **changes) -> tuple[Result, str]:
    reporter = MemoryReporter()
    uuids = [uuid(number) for number in gpus]
    if uuids:
        changes["action"] = {"accelerator": replace(GPU, count=len(uuids)), **changes.get("action", {})}
    attempt = world.attempt(world.order(*sh(script), gpus=uuids, **changes), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    attempt.directory.remove()
    assert not mounted(attempt.directory.path / layer.ROOT)
    (result,) = reporter.results
    return result, reporter.text.decode()


def test_a_step_sees_exactly_its_devices_and_opens_them(world: World) -> None:
    result, text = run(world, OPEN + "ls /dev; open /dev/test0; open /dev/testctl; open /dev/test1; env", "0")
    assert result.failure is None, (result.failure, text)
    assert "opened /dev/test0" in text and "opened /dev/testctl" in text
    assert "opened /dev/test1" not in text and "\ntest1\n" not in text
    lines = text.splitlines()
    assert f"CUDA_VISIBLE_DEVICES={uuid('0')}" in lines and f"NVIDIA_VISIBLE_DEVICES={uuid('0')}" in lines
    assert "TEST_DRIVER=1" in lines
    report = SandboxReport.from_bytes(result.sandbox_report)
    assert report.gpus == (uuid("0"),) and report.resources.gpu == 1
    assert world.gpus.free() == [uuid("0"), uuid("1")]


def test_a_step_without_devices_sees_none(world: World) -> None:
    result, text = run(world, "ls /dev; env; mknod /tmp/x c 1 3 2>&1; mknod /dev/x c 1 3 2>&1; true")
    assert result.failure is None
    assert "test" not in text and "VISIBLE_DEVICES" not in text and text.count("mknod:") == 2
    assert SandboxReport.from_bytes(result.sandbox_report).gpus == ()


def test_two_steps_at_once_have_one_each_and_a_third_is_refused(world: World) -> None:
    reporters = [MemoryReporter(), MemoryReporter()]
    held = []
    for number, reporter in zip("01", reporters, strict=True):
        order = world.order(*sh("ls /dev"), gpus=[uuid(number)], action={"accelerator": GPU})
        attempt = world.attempt(order, reporter)
        steps.verify_contract(attempt)
        held.append(attempt)
    assert world.gpus.free() == []
    third, _ = run(world, "true", "1")
    assert third.failure is not None
    assert (third.failure.failure_class, third.failure.reason) == (FailureClass.INFRASTRUCTURE, "GPU_IN_USE")
    for attempt in held:
        steps.execute(attempt)
        steps.clean_up(attempt)
    for number, reporter in zip("01", reporters, strict=True):
        names = reporter.text.decode().split()
        assert [n for n in names if n in ("test0", "test1")] == [f"test{number}"]


def test_what_the_step_declares_is_what_it_sees(world: World) -> None:
    result, text = run(world, "env", "0", "1", env={"CUDA_VISIBLE_DEVICES": "0", "TEST_DRIVER": "mine"})
    assert result.failure is None
    assert "CUDA_VISIBLE_DEVICES=0\n" in text and "TEST_DRIVER=mine\n" in text
    assert f"NVIDIA_VISIBLE_DEVICES={uuid('0')},{uuid('1')}\n" in text


def test_the_drivers_files_are_there_read_only_and_the_shared_image_is_unchanged(world: World, rack: Rack) -> None:
    library = rack.folder / "libtest.so.1.2.3"
    library.write_bytes(b"driver")
    library.chmod(0o644)
    hook = {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}
    rack.write(
        rack.spec(
            mounts=[
                {"hostPath": str(library), "containerPath": "/usr/lib/driver/libtest.so.1.2.3", "options": ["rw"]},
                {"hostPath": str(rack.cdi), "containerPath": "/opt/driver", "options": ["ro"]},
            ],
            hooks=[
                {**hook, "args": ["x", "create-symlinks", "--link", "libtest.so.1.2.3::/usr/lib/driver/libtest.so.1"]},
                {**hook, "args": ["x", "update-ldcache", "--folder", "/usr/lib/driver"]},
            ],
        )
    )
    world.gpus.refresh()
    before = run(world, "ls /usr /opt 2>&1; true")[1]
    script = """
        cat /usr/lib/driver/libtest.so.1; ls /opt/driver; echo "folders $LD_LIBRARY_PATH"; cat /etc/passwd
        for path in /usr/lib/driver/libtest.so.1.2.3 /usr/lib/driver/x /opt/driver/x /x; do
            echo x 2>/dev/null > $path && echo "wrote $path"
        done; true
    """
    result, text = run(world, script, "1")
    assert result.failure is None, (result.failure, text)
    assert "driver" in text and "test.json" in text and "folders /usr/lib/driver\n" in text and "65532" in text
    assert "wrote" not in text and library.read_bytes() == b"driver"
    assert run(world, "ls /usr /opt 2>&1; true")[1] == before
    assert all(world.images.verify(digest) for digest in world.images.digests())


def test_a_hook_that_the_node_allows_runs_and_no_other(world: World, rack: Rack) -> None:
    mark = rack.folder / "mark"
    program = rack.folder / "hook"
    program.write_text(f'#!/bin/sh\necho "$1 $MARK" > {mark}\n')
    program.chmod(0o755)
    hook = {"hookName": "createRuntime", "path": str(program), "args": ["hook", "ran"], "env": ["MARK=1"]}
    rack.write(rack.spec(hooks=[hook]))
    world.gpus.refresh()
    result, _ = run(world, "true", "0")
    assert result.failure is not None and result.failure.reason == "GPU_UNHEALTHY" and not mark.exists()
    world.gpus.close()
    world.gpus = rack.pool(programs=[str(program)])
    result, text = run(world, "true", "0")
    assert result.failure is None, (result.failure, text)
    assert mark.read_text() == "ran 1\n"


def test_what_ran_on_a_device_that_failed_is_no_result(world: World, rack: Rack) -> None:
    for script in ("true", "exit 3"):
        rack.listed({"0": "", "1": ""})
        world.gpus.refresh()
        reporter = MemoryReporter()
        order = world.order(*sh(script), gpus=[uuid("0")], action={"accelerator": GPU})
        attempt = world.attempt(order, reporter)

        def fails(name: str) -> None:
            if name == "run":
                rack.listed({"0": "XID 79", "1": ""})

        steps.execute(attempt, fails)
        steps.clean_up(attempt)
        failure = reporter.results[0].failure
        assert failure is not None and failure.reason == "GPU_FAILED" and "XID 79" in failure.message
        assert failure.failure_class is FailureClass.INFRASTRUCTURE and not reporter.results[0].provenance


def test_a_process_that_adopts_an_attempt_has_its_device_still(world: World, rack: Rack) -> None:
    """The first process dies while the container runs."""
    order = world.order(*sh("ls /dev; sleep 1"), gpus=[uuid("0")], action={"accelerator": GPU})
    first = world.attempt(order)

    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == "run":
            steps.running._mark_start(first)
            first.ports.driver.start(first.handle)
            raise Died

    with pytest.raises(Died):
        steps.execute(first, die)
    world.gpus.close()
    world.gpus = rack.pool()
    world.gpus.adopt(order[0], [uuid("0")])
    assert world.gpus.free() == [uuid("1")]
    refused, _ = run(world, "true", "0")
    assert refused.failure is not None and refused.failure.reason == "GPU_IN_USE"
    reporter = MemoryReporter()
    second = world.attempt(order, reporter)
    steps.execute(second)
    steps.clean_up(second)
    assert reporter.results[0].failure is None and "test0" in reporter.text.decode()
    assert world.gpus.free() == [uuid("0"), uuid("1")]


def test_the_canaries_show_that_a_container_has_its_own_devices_alone(world: World) -> None:
    (found,) = canary.examine(world.driver, world.quota, world.root / "canary", world.gpus)
    assert found.name == "gpu-devices" and found.enforced, found.detail
    assert world.driver.ids() == set() and not (world.root / "canary-gpu").exists()


def test_a_node_of_which_the_rules_do_not_keep_a_device_closed_is_found_out(world: World, rack: Rack) -> None:
    # Every container may use /dev/zero, whose number this device has: the canary opens what it was not given.
    os.unlink(rack.folder / "dev" / "test1")
    rack.node("test1", 1, 5)
    world.gpus.refresh()
    (found,) = canary.examine(world.driver, world.quota, world.root / "canary", world.gpus)
    assert not found.enforced and '"/dev/test1": "open"' in found.detail


def test_a_node_without_devices_has_no_such_canary(runc_world: World) -> None:
    assert canary.examine(runc_world.driver, runc_world.quota, runc_world.root / "canary", runc_world.gpus) == ()


def test_the_fingerprint_names_driver_and_cuda_and_its_class_no_device(rack: Rack) -> None:
    pool = rack.pool()
    about = inventory.read(pool.offered())
    host = inventory.fingerprint(about, {"runc": "1"})
    assert [(g.uuid, g.model, g.driver_version) for g in host.gpus] == [
        (uuid("0"), "Example X000", "1.2.3"),
        (uuid("1"), "Example X100", "1.2.3"),
    ]
    assert host.libraries["cuda-driver"] == "13.0"
    twin = replace(host, gpus=(replace(host.gpus[0], uuid="GPU-other"), host.gpus[1]))
    assert twin.host_class == host.host_class and twin.digest != host.digest
    assert [g.uuid for g in node.describe(about, ()).gpus] == [uuid("0"), uuid("1")]
    assert json.loads(host.to_bytes())["gpus"]
    pool.close()
