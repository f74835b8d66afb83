"""On a machine with an NVIDIA GPU: inventory, specification, canary, and a step that trains on it in a container."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from animus_agent.gpu import canary as gpu_canary
from animus_agent.gpu.devices import Gpus
from animus_agent.gpu.nvml import NvmlInventory
from animus_agent.gpu.pool import GpuPool
from animus_agent.sandbox import canary, logs
from animus_agent.sandbox.driver import Limits, Mount, Phase, SandboxSpec
from animus_agent.testing import World
from animus_kit.testing.fixtures import requires_runc

STEP = Path(__file__).resolve().parents[2] / "examples" / "gpu" / "code" / "train.py"


def found() -> Gpus:
    inventory = NvmlInventory()
    try:
        return inventory.read()
    finally:
        inventory.close()


HERE = found()
pytestmark = pytest.mark.skipif(not HERE.devices, reason=f"needs an NVIDIA GPU: {HERE.reason}")


def specification(folder: Path) -> Path:
    """What `nvidia-ctk cdi generate` would write, as far as the step needs it: nodes, and the driver's libraries."""
    common = [path for path in Path("/dev").glob("nvidia*") if path.name in ("nvidiactl", "nvidia-uvm")]
    cache = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    wanted = ("libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-gpucomp.so")
    libraries = {
        os.path.realpath(line.rsplit(" ", 1)[-1])
        for line in cache.splitlines()
        if line.strip().startswith(wanted) and "x86-64" in line
    }
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": device.uuid, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{device.minor}"}]}}
            for device in HERE.devices
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [{"path": str(path)} for path in common if stat.S_ISCHR(path.stat().st_mode)],
            "mounts": [
                {"hostPath": path, "containerPath": f"/usr/lib/nvidia-test/{os.path.basename(path)}"}
                for path in sorted(libraries)
            ],
            "hooks": [
                {
                    "hookName": "createContainer",
                    "path": "/usr/bin/nvidia-cdi-hook",
                    "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/nvidia-test"],
                }
            ],
        },
    }
    folder.mkdir(mode=0o755)
    path = folder / "nvidia.json"
    path.write_text(json.dumps(spec))
    path.chmod(0o644)
    return folder


def test_the_driver_tells_its_devices() -> None:
    for device in HERE.devices:
        assert device.uuid.startswith("GPU-") and device.memory_bytes > 1 << 30 and device.minor is not None
        assert device.driver_version and device.cuda_version and not device.trouble, device
    print(*HERE.devices, sep="\n")


def test_the_step_trains_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "weights").mkdir(parents=True)
    environment = {"CUDA_VISIBLE_DEVICES": HERE.devices[0].uuid, "ANIMUS_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, STEP], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    assert json.loads((tmp_path / "metrics.json").read_text())["worst_error"] < 1e-3


@requires_runc
def test_the_step_trains_in_a_container_that_sees_this_device_alone(runc_world: World, node_dir: Path) -> None:
    pool = GpuPool(NvmlInventory(), [specification(node_dir / "cdi")], locks=node_dir / "locks")
    pool.refresh()
    offered = pool.offered()
    assert offered.devices, offered
    (feature,) = gpu_canary.examine(runc_world.driver, runc_world.quota, node_dir / "canary", pool)
    assert feature.enforced, feature.detail
    chosen = offered.devices[0].uuid
    given = pool.provision([chosen])
    directory = node_dir / "container"
    directory.mkdir(mode=0o711)
    work = node_dir / "work"
    for folder in (work, work / "outputs", work / "outputs" / "weights"):
        folder.mkdir()
        folder.chmod(0o1777)
    # The host's own Python stands in for an image.
    image = node_dir / "image"
    mounts = canary._host_python(image)
    spec = SandboxSpec(
        id=f"an-real-gpu-{os.getpid()}",
        directory=directory,
        rootfs=image,
        args=(os.path.realpath(sys.executable), "-I", "-S", "-c", STEP.read_text()),
        env=(f"CUDA_VISIBLE_DEVICES={chosen}", "HOME=/tmp", f"LD_LIBRARY_PATH={_host_libraries(given.mounts)}"),
        cwd="/",
        limits=Limits(memory_bytes=8 << 30, cpu_millis=4000),
        uid_base=1_000_000,
        mounts=(*mounts, Mount(work, "/animus", writable=True)),
        devices=given.devices,
        backstop_seconds=300,
    )
    handle = runc_world.driver.prepare(spec)
    try:
        runc_world.driver.start(handle)
        assert runc_world.driver.status(handle, 200.0) is Phase.EXITED
        text = b"".join(
            c.data for c in logs.read(runc_world.driver.log_path(handle), logs.Cursor(), final=True)
        ).decode()
        print(text)
        assert runc_world.driver.collect(handle).exit_code == 0, text
        assert chosen in text and (work / "outputs" / "weights" / "weights.f32").stat().st_size == 4 << 20
    finally:
        runc_world.driver.destroy(handle)
        pool.close()


def _host_libraries(mounts: tuple[Mount, ...]) -> str:
    """/usr is the host's own here, so that the driver's files are where the host has them."""
    return ":".join(sorted({str(mount.source.parent) for mount in mounts}))
