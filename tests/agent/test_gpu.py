"""GPUs without containers: CDI specifications, the attempt's own layer, and whose each device is."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from animus_agent.errors import ContractRefused, GpuUnavailable
from animus_agent.gpu import cdi, elf, layer
from animus_agent.gpu.devices import FileInventory, GpuDevice, Gpus
from animus_agent.gpu.pool import GpuPool, visible_devices
from animus_agent.gpu.provision import Provision, provision
from animus_agent.gpu.rooted import check_program, read_rooted
from animus_agent.sandbox.driver import Mount
from tests.agent.gpus import CONTROL, FIRST, Rack, uuid
from tests.kit.documents.samples import CONTRACT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes device nodes, and believes only root's files")
pytestmark = as_root


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    return Rack(tmp_path / "rack")


def order(*numbers: str, attempt: int = 2, model: str | None = None):
    """A contract that names these devices."""
    uuids = tuple(uuid(number) for number in numbers)
    accelerator = replace(CONTRACT.action.accelerator, count=len(uuids), model=model)
    action = replace(CONTRACT.action, accelerator=accelerator)
    return replace(
        CONTRACT,
        attempt=CONTRACT.attempt[:-1] + str(attempt),
        number=attempt,
        action=action,
        action_digest=action.digest,
        resources=replace(CONTRACT.resources, gpu=len(uuids)),
        gpu_uuids=uuids,
    )


def refused(reason: str, call, *args, **kw) -> str:
    with pytest.raises((GpuUnavailable, ContractRefused)) as error:
        call(*args, **kw)
    assert error.value.reason == reason, str(error.value)
    return str(error.value)


# Files that only root may have written.


def test_only_roots_files_are_believed(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    path = folder / "a.json"
    path.write_text("{}")
    path.chmod(0o644)
    assert read_rooted(path) == b"{}"
    path.chmod(0o664)
    assert "written by others" in refused("NOT_ROOTED", read_rooted, path)
    path.chmod(0o644)
    os.chown(path, 1000, 0)
    assert "uid 1000" in refused("NOT_ROOTED", read_rooted, path)
    os.chown(path, 0, 0)
    folder.chmod(0o777)
    refused("NOT_ROOTED", read_rooted, path)
    folder.chmod(0o755)
    (folder / "link.json").symlink_to(path)
    with pytest.raises(OSError):
        read_rooted(folder / "link.json")
    refused("NOT_ROOTED", read_rooted, Path("relative.json"))
    refused("NOT_ROOTED", check_program, path)


# CDI.


def test_a_specification_is_read(rack: Rack) -> None:
    registry = cdi.load([rack.cdi])
    assert registry.problems == () and set(registry.devices) == {"animus.test/gpu=0", "animus.test/gpu=1"}
    got = provision([registry.devices["animus.test/gpu=0"]])
    assert [(d.path, d.major, d.minor, d.access) for d in got.devices] == [
        ("/dev/testctl", *CONTROL, "rw"),
        ("/dev/test0", *FIRST, "rw"),
    ]
    both = provision(registry.devices.values())
    assert [d.path for d in both.devices] == ["/dev/testctl", "/dev/test0", "/dev/test1"]


def test_yaml_says_the_same(rack: Rack) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which the agent's extra `cdi` brings")
    (rack.cdi / "test.json").unlink()
    rack.write(yaml.safe_dump(rack.spec()), "test.yaml")
    assert len(cdi.load([rack.cdi]).devices) == 2
    rack.write("kind: [", "test.yaml")
    assert "not YAML" in cdi.load([rack.cdi]).problems[0]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"cdiVersion": "2.0.0"}, "cdiVersion"),
        ({"cdiVersion": 1.0}, "cdiVersion"),
        ({"kind": "gpu"}, "kind"),
        ({"kind": "../x/gpu"}, "kind"),
        ({"extra": 1}, "extra: no such field"),
        ({"devices": {}}, "devices"),
        ({"devices": [{"name": "a/b", "containerEdits": {}}]}, "devices[0].name"),
        ({"devices": [{"name": "a"}]}, "devices[0].containerEdits"),
        ({"devices": [{"name": "a", "containerEdits": {}}] * 2}, "devices[1].name"),
        ({"containerEdits": {"env": ["A"]}}, "containerEdits.env[0]"),
        ({"containerEdits": {"deviceNodes": [{"path": "dev/x"}]}}, "deviceNodes[0].path"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/../etc"}]}}, "deviceNodes[0].path"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/x", "type": "b"}]}}, "deviceNodes[0].type"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/x", "permissions": "rwx"}]}}, "permissions"),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/x", "major": -1}]}}, "major"),
        (
            {"containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "tmpfs"}]}},
            "mounts[0].type",
        ),
        ({"containerEdits": {"mounts": [{"hostPath": "/a"}]}}, "containerPath"),
        ({"containerEdits": {"hooks": [{"hookName": "later", "path": "/a"}]}}, "hookName"),
        ({"containerEdits": {"intelRdt": {}}}, "intelRdt"),
        ({"containerEdits": {"netDevices": []}}, "netDevices"),
    ],
)
def test_a_specification_that_is_not_understood_is_refused_whole(rack: Rack, change: dict, place: str) -> None:
    rack.write(rack.spec() | change)
    registry = cdi.load([rack.cdi])
    assert not registry.devices and place in registry.problems[0]


def test_a_later_folder_decides_and_two_files_of_one_folder_do_not(rack: Rack, tmp_path: Path) -> None:
    later = Rack(tmp_path / "later")
    found = cdi.load([rack.cdi, later.cdi]).devices["animus.test/gpu=0"]
    assert found.own.nodes[0].host_path.startswith(str(later.folder))
    rack.write(rack.spec(), "again.json")
    registry = cdi.load([rack.cdi])
    assert not registry.devices and "described by two files" in registry.problems[0]
    assert cdi.load([tmp_path / "absent"]).devices == {}


def test_a_specification_that_others_may_write_counts_for_nothing(rack: Rack) -> None:
    rack.write(rack.spec()).chmod(0o666)
    pool = rack.pool()
    assert pool.offered().devices == () and "written by others" in pool.offered().left_out[uuid("0")]


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}, "CDI_DEVICE_INVALID"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/absent"}]}, "CDI_DEVICE_INVALID"),
        ({"deviceNodes": [{"path": "/etc/x", "hostPath": "/dev/null"}]}, "CDI_DEVICE_INVALID"),
        ({"deviceNodes": [{"path": "/dev/null", "major": 1, "minor": 5}]}, "CDI_DEVICE_INVALID"),
        ({"mounts": [{"hostPath": "/etc/passwd", "containerPath": "/animus/x"}]}, "CDI_DEVICE_INVALID"),
        ({"mounts": [{"hostPath": "/etc/passwd", "containerPath": "/proc/x"}]}, "CDI_DEVICE_INVALID"),
        ({"mounts": [{"hostPath": "/absent", "containerPath": "/x"}]}, "CDI_DEVICE_INVALID"),
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}]}, "CDI_HOOK_REFUSED"),
        ({"hooks": [{"hookName": "poststop", "path": "/x/nvidia-ctk", "args": ["nvidia-ctk", "hook", "new"]}]},
         "CDI_HOOK_REFUSED"),
    ],
)  # fmt: skip
def test_what_a_container_must_not_get_makes_the_device_unusable(rack: Rack, edits: dict, reason: str) -> None:
    rack.write(rack.spec(**edits))
    found = cdi.load([rack.cdi]).devices["animus.test/gpu=0"]
    refused(reason, provision, [found])
    assert rack.pool().offered().devices == ()


def test_nodes_that_no_container_could_open_and_sockets_are_left_out_with_a_note(rack: Rack, tmp_path: Path) -> None:
    import socket

    closed = rack.node("closed", 1, 3, mode=0o660)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        spec = rack.spec(
            deviceNodes=[{"path": "/dev/closed", "hostPath": str(closed)}],
            mounts=[{"hostPath": str(tmp_path / "socket"), "containerPath": "/run/socket", "options": ["rw"]}],
        )
        rack.write(spec)
        got = provision([cdi.load([rack.cdi]).devices["animus.test/gpu=1"]])
    assert [d.path for d in got.devices] == ["/dev/test1"] and not got.mounts
    assert len(got.notes) == 2 and "0660" in got.notes[0] and "sockets" in got.notes[1]
    # The device's own node is another matter.
    (rack.folder / "dev" / "test1").chmod(0o600)
    assert [d.uuid for d in rack.pool().offered().devices] == [uuid("0")]


def test_nvidias_hooks_are_done_here_and_a_configured_one_is_run(rack: Rack) -> None:
    program = rack.folder / "hook"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hooks = [
        {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", *args]}
        for args in (
            ["create-symlinks", "--link", "libcuda.so.1::/usr/lib/x/libcuda.so", "--link=../b::/usr/lib/y/b"],
            ["update-ldcache", "--folder", "/usr/lib/x", "--folder", "/opt/y"],
            ["chmod", "--mode", "755", "--path", "/dev/dri"],
        )
    ]
    hooks.append({"hookName": "createRuntime", "path": str(program), "args": ["hook", "a"], "timeout": 3})
    rack.write(rack.spec(hooks=hooks))
    found = cdi.load([rack.cdi]).devices["animus.test/gpu=0"]
    refused("CDI_HOOK_REFUSED", provision, [found])
    got = provision([found], [str(program)])
    assert dict(got.links) == {"/usr/lib/x/libcuda.so": "libcuda.so.1", "/usr/lib/y/b": "../b"}
    assert got.library_folders == ("/usr/lib/x", "/opt/y") and "chmod is not run" in got.notes[0]
    assert [(h.moment, h.path, h.args, h.timeout) for h in got.hooks] == [
        ("createRuntime", str(program), ("hook", "a"), 3)
    ]
    program.chmod(0o777)
    refused("NOT_ROOTED", provision, [found], [str(program)])


def test_a_library_is_found_by_its_own_name(rack: Rack) -> None:
    libc = next(Path("/lib").glob("*/libc.so.6"))
    assert elf.soname(libc) == "libc.so.6" and elf.soname(Path("/etc/passwd")) == ""
    mount = {"hostPath": str(libc), "containerPath": "/usr/lib/x/libc.so.570.1", "options": ["ro"]}
    rack.write(rack.spec(mounts=[mount]))
    got = provision([cdi.load([rack.cdi]).devices["animus.test/gpu=0"]])
    assert got.links == (("/usr/lib/x/libc.so.6", "libc.so.570.1"),)
    assert got.mounts[0].target == "/usr/lib/x/libc.so.570.1" and not got.mounts[0].writable


# The layer.


def test_the_layer_follows_the_images_own_links_and_leaves_the_image_alone(tmp_path: Path) -> None:
    image, attempt = tmp_path / "image", tmp_path / "attempt"
    (image / "usr" / "lib64").mkdir(parents=True)
    (image / "usr" / "lib64").chmod(0o751)
    (image / "lib64").symlink_to("usr/lib64")
    (image / "opt").symlink_to("/usr/../../../usr/share")
    (image / "loop").symlink_to("loop")
    assert layer.resolve(image, "/lib64/a/b") == Path("usr/lib64/a/b")
    assert layer.resolve(image, "/opt/x") == Path("usr/share/x")
    refused("CDI_DEVICE_INVALID", layer.resolve, image, "/loop/x")
    attempt.mkdir()
    what = Provision(
        mounts=(Mount(Path("/etc/passwd"), "/lib64/libcuda.so.1.2"), Mount(Path("/etc"), "/opt/driver")),
        links=(("/lib64/libcuda.so", "libcuda.so.1.2"),),
    )
    try:
        root = layer.build(image, attempt, what)
        assert layer.build(image, attempt, what) == root
        assert (root / "usr/lib64/libcuda.so.1.2").is_file() and (root / "usr/share/driver").is_dir()
        assert os.readlink(root / "usr/lib64/libcuda.so") == "libcuda.so.1.2"
        assert (root / "lib64").is_symlink() and (root / "usr/lib64").stat().st_mode & 0o777 == 0o751
        with pytest.raises(OSError):
            (root / "x").write_text("")
    finally:
        layer.remove(attempt)
    layer.remove(attempt)
    assert not list((image / "usr" / "lib64").iterdir())
    assert layer.build(image, attempt, Provision()) == image


# Whose it is.


def test_one_attempt_at_a_time_has_a_device(rack: Rack) -> None:
    pool = rack.pool()
    assert pool.free() == [uuid("0"), uuid("1")]
    pool.claim(order("0"))
    pool.claim(order("0"))
    assert pool.free() == [uuid("1")]
    message = refused("GPU_IN_USE", pool.claim, order("1", "0", attempt=3))
    assert CONTRACT.attempt in message and pool.free() == [uuid("1")], "all or none"
    pool.release(CONTRACT.attempt)
    pool.claim(order("0", "1", attempt=3))
    assert pool.free() == []


def test_a_device_whose_attempt_is_being_cleaned_up_is_waited_for(rack: Rack) -> None:
    pool = rack.pool()
    pool.claim(order("0"))
    pool.ending(CONTRACT.attempt)
    refused("GPU_IN_USE", pool.claim, order("0", attempt=3), wait_seconds=0.05)
    waiting = threading.Thread(target=pool.claim, args=(order("0", attempt=3),))
    waiting.start()
    pool.release(CONTRACT.attempt)
    waiting.join(10)
    assert not waiting.is_alive()
    refused("GPU_IN_USE", pool.claim, order("0", attempt=4))


def test_what_an_adopted_attempt_has_is_taken_before_anybody_asks(rack: Rack) -> None:
    pool = GpuPool(FileInventory(rack.list), [rack.cdi], locks=rack.folder / "locks")
    pool.adopt(CONTRACT.attempt, [uuid("0")])
    pool.refresh()
    assert pool.free() == [uuid("1")]
    refused("GPU_IN_USE", pool.claim, order("0", attempt=3))
    pool.claim(order("0"))


def test_contracts_that_this_node_cannot_keep_are_refused(rack: Rack) -> None:
    pool = rack.pool()
    refused("GPU_UNKNOWN", pool.claim, replace(order("0"), gpu_uuids=(uuid("7"),)))
    refused("GPU_UNASSIGNED", pool.claim, replace(order("0"), gpu_uuids=None))
    refused("GPU_MODEL_MISMATCH", pool.claim, order("0", model="X100"))
    pool.claim(order("0", model="x000"))
    pool.release(CONTRACT.attempt)
    rack.listed({"0": "XID 79", "1": ""})
    assert pool.refresh() and not pool.refresh()
    assert "XID 79" in refused("GPU_UNHEALTHY", pool.claim, order("0"))
    assert pool.free() == [uuid("1")]


def test_a_device_that_fails_under_its_attempt_is_told(rack: Rack) -> None:
    pool = rack.pool()
    pool.claim(order("0"))
    assert pool.trouble([uuid("0")]) == "" and pool.trouble([]) == ""
    rack.listed({"0": "XID 48", "1": ""})
    assert "XID 48" in pool.trouble([uuid("0")])
    rack.listed({"1": ""})
    assert "gone" in pool.trouble([uuid("0")])
    pool.claim(order("0"))


def test_two_agents_of_one_machine_never_offer_one_device(rack: Rack) -> None:
    first, second = rack.pool(), rack.pool()
    assert len(first.offered().devices) == 2 and second.offered().devices == ()
    assert set(second.offered().left_out.values()) == {"another agent of this machine offers it"}
    first.close()
    assert second.refresh() and len(second.offered().devices) == 2


def test_only_chosen_devices_are_offered_and_devices_that_share_a_node_are_not(rack: Rack) -> None:
    pool = rack.pool(only=[uuid("1")])
    assert [d.uuid for d in pool.offered().devices] == [uuid("1")]
    pool.close()
    spec = rack.spec()
    for device in spec["devices"]:
        device["containerEdits"]["deviceNodes"].append({"path": "/dev/kvm", "hostPath": str(rack.folder / "dev/test0")})
    rack.write(spec)
    assert rack.pool().offered().devices == ()


def test_a_device_is_found_by_its_uuid_or_by_its_own_node(tmp_path: Path) -> None:
    """Names by index change with a reboot; `all` is every device."""

    class Nvidia:
        def read(self) -> Gpus:
            return Gpus((GpuDevice("GPU-a", "H200", 1, "1", minor=0), GpuDevice("GPU-b", "H200", 1, "1", minor=1)))

        def close(self) -> None: ...

    rack = Rack(tmp_path / "rack")

    def node(number: int) -> dict:
        return {"path": f"/dev/nvidia{number}", "hostPath": str(rack.folder / f"dev/test{number}")}

    def device(name: str, *numbers: int) -> dict:
        return {"name": name, "containerEdits": {"deviceNodes": [node(number) for number in numbers]}}

    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu"}
    # The index runs against the minor number.
    rack.write({**spec, "devices": [device("0", 1), device("1", 0), device("all", 0, 1)]})
    pool = GpuPool(Nvidia(), [rack.cdi], locks=tmp_path / "locks")
    pool.refresh()
    assert [d.path for d in pool.provision(["GPU-a"]).devices] == ["/dev/nvidia0"]
    assert [d.path for d in pool.provision(["GPU-b"]).devices] == ["/dev/nvidia1"]
    rack.write({**spec, "devices": [device("GPU-a", 1), device("GPU-b", 0)]})
    pool.refresh()
    assert [d.path for d in pool.provision(["GPU-a"]).devices] == ["/dev/nvidia1"]


def test_what_programs_are_told_is_exact() -> None:
    both = ",".join((uuid("0"), uuid("1")))
    assert visible_devices(order("1", "0")) == {"CUDA_VISIBLE_DEVICES": both, "NVIDIA_VISIBLE_DEVICES": both}
    assert visible_devices(CONTRACT) == {}
