"""What every driver must do. A new driver joins by appearing in `drivers`."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from animus_agent.errors import CommandNotRunnable, StartFailed
from animus_agent.sandbox import logs
from animus_agent.sandbox.driver import TERMINAL, Driver, Handle, Limits, Mount, Phase, SandboxSpec
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.testing import MemoryBlobs, busybox_layer, put_image
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import until

PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name: (shell for runc, arguments for fake)
    "exit-3": ("exit 3", ("exit=3",)),
    "say": ("echo hello; echo oops >&2", ("out=hello", "err=oops")),
    "long": ("sleep 30", ("seconds=30",)),
    "short": ("sleep 0.2", ("seconds=0.2",)),
    "stubborn": (
        "trap 'echo no' TERM; echo ready; while true; do sleep 0.05; done",
        ("seconds=30", "ignore-term", "out=ready"),
    ),
    "deaf": ("trap '' TERM; echo ready; sleep 30", ("seconds=30", "ignore-term", "out=ready")),
    "polite": ("trap 'exit 0' TERM; echo ready; while true; do sleep 0.05; done", ("seconds=30", "out=ready")),
    "bomb": ("echo ready; while true; do sleep 30 & done", ("seconds=30", "out=ready")),
    "oom": ("x=a; while true; do x=$x$x; done", ("oom",)),
    "write": ("echo -n text > /animus/file", ("write=/animus/file:text",)),
    "absent": ("", ("not-runnable",)),
}


class Bench:
    """Makes specifications for one driver, and further processes that share its state."""

    def __init__(self, root: Path, driver: Driver, again: Callable[[], Driver], rootfs: Path) -> None:
        self.root, self.driver, self.again, self._rootfs = root, driver, again, rootfs

    def spec(self, program: str, name: str = "one") -> SandboxSpec:
        shell, fake = PROGRAMS[program]
        args = ("fake", *fake) if self.driver.name == "fake" else ("/bin/sh", "-c", shell)
        if program == "absent" and self.driver.name != "fake":
            args = ("/absent",)
        work = self.root / f"work-{name}"
        work.mkdir(exist_ok=True)
        work.chmod(0o1777)
        return SandboxSpec(
            id=f"an-{self.root.name}-{name}",
            directory=self.root / name,
            rootfs=self._rootfs,
            args=args,
            env=("PATH=/bin",),
            cwd="/",
            limits=Limits(memory_bytes=32 << 20, cpu_millis=1000, pids=32, open_files=1024),
            uid_base=1_000_000,
            mounts=(Mount(work, "/animus", writable=True),),
        )

    def started(self, program: str) -> Handle:
        handle = self.driver.prepare(self.spec(program))
        self.driver.start(handle)
        return handle


@pytest.fixture(params=["fake", pytest.param("runc", marks=requires_runc)])
def bench(request: pytest.FixtureRequest, node_dir: Path) -> Bench:
    if request.param == "fake":
        return Bench(node_dir, FakeDriver(), FakeDriver, node_dir)
    return request.getfixturevalue("runc_bench")


@pytest.fixture
def runc_bench(request: pytest.FixtureRequest, node_dir: Path) -> Bench:
    from animus_agent.images.cache import ImageCache
    from animus_agent.sandbox.runc import RuncDriver

    driver = request.getfixturevalue("runc_driver")
    blobs = MemoryBlobs()
    image = ImageCache(node_dir / "images").get(put_image(blobs, busybox_layer()), "linux/amd64", blobs)
    return Bench(node_dir, driver, lambda: RuncDriver(node_dir / "runc", driver._cgroups), image.path)


def end(bench: Bench, handle: Handle, seconds: float = 10.0) -> Phase:
    return bench.driver.status(handle, seconds)


def test_prepare_runs_nothing_and_may_be_repeated(bench: Bench) -> None:
    handle = bench.driver.prepare(bench.spec("exit-3"))
    assert bench.driver.prepare(bench.spec("exit-3")) == handle
    assert bench.driver.status(handle) is Phase.PREPARED


def test_the_exit_code_is_collected(bench: Bench) -> None:
    handle = bench.started("exit-3")
    assert end(bench, handle) is Phase.EXITED
    collected = bench.driver.collect(handle)
    assert (collected.phase, collected.exit_code, collected.usage.oom_kills) == (Phase.EXITED, 3, 0)
    assert bench.driver.collect(handle) == collected
    bench.driver.destroy(handle)


def test_output_is_logged_by_stream(bench: Bench) -> None:
    handle = bench.started("say")
    end(bench, handle)
    chunks = logs.read(bench.driver.log_path(handle), logs.Cursor(), final=True)
    assert {(c.data, c.stderr) for c in chunks} == {(b"hello\n", False), (b"oops\n", True)}
    bench.driver.destroy(handle)


def test_a_started_container_never_starts_again(bench: Bench) -> None:
    handle = bench.started("short")
    with pytest.raises(StartFailed) as refused:
        bench.driver.start(handle)
    assert refused.value.reason == "CONTAINER_STARTED_BEFORE"
    assert end(bench, handle) is Phase.EXITED
    with pytest.raises(StartFailed):
        bench.again().start(handle)
    bench.driver.destroy(handle)


def test_waiting_ends_with_the_container(bench: Bench) -> None:
    handle = bench.started("short")
    assert bench.driver.status(handle) is Phase.RUNNING
    assert bench.driver.status(handle, 20.0) is Phase.EXITED
    bench.driver.destroy(handle)


def ready(bench: Bench, program: str) -> Handle:
    """Started, and past its first lines."""
    handle = bench.started(program)
    log = bench.driver.log_path(handle)
    until(lambda: log.exists() and b"ready" in log.read_bytes(), "the container's first line")
    return handle


def test_kill_ends_what_ignores_term(bench: Bench) -> None:
    handle = ready(bench, "stubborn")
    assert bench.driver.terminate(handle)
    assert bench.driver.status(handle, 0.3) is Phase.RUNNING
    assert bench.driver.end(handle, 10.0)
    assert bench.driver.status(handle) is Phase.EXITED
    assert bench.driver.collect(handle).exit_code == 137
    assert bench.driver.end(handle)
    bench.driver.destroy(handle)


def test_term_is_for_who_listens(bench: Bench) -> None:
    handle = ready(bench, "polite")
    assert bench.driver.terminate(handle)
    assert end(bench, handle) is Phase.EXITED
    bench.driver.destroy(handle)


@requires_runc
def test_where_nobody_listens_there_is_nobody_to_wait_for(runc_bench: Bench) -> None:
    handle = ready(runc_bench, "deaf")
    assert not runc_bench.driver.terminate(handle)
    assert runc_bench.driver.status(handle) is Phase.RUNNING
    runc_bench.driver.destroy(handle)


def test_a_bomb_ends_at_once_however_little_cpu_it_has(bench: Bench) -> None:
    spec = bench.spec("bomb")
    spec = dataclasses.replace(spec, limits=dataclasses.replace(spec.limits, cpu_millis=100, pids=512))
    handle = bench.driver.prepare(spec)
    bench.driver.start(handle)
    log = bench.driver.log_path(handle)
    until(lambda: log.exists() and b"ready" in log.read_bytes(), "the container's first line")
    assert bench.driver.end(handle, 10.0)
    assert bench.driver.status(handle) is Phase.EXITED
    bench.driver.destroy(handle)
    assert handle.id not in bench.driver.ids()


def test_what_is_paused_stands_still_until_it_may_go_on(bench: Bench) -> None:
    handle = bench.started("short")
    assert bench.driver.pause(handle, True)
    assert bench.driver.paused(handle) and bench.again().paused(handle)
    assert bench.driver.status(handle, 0.5) is Phase.RUNNING
    assert bench.driver.pause(handle, False) and not bench.driver.paused(handle)
    assert end(bench, handle) is Phase.EXITED
    assert bench.driver.collect(handle).exit_code == 0
    bench.driver.destroy(handle)


def test_what_is_paused_can_be_killed(bench: Bench) -> None:
    handle = bench.started("long")
    assert bench.driver.pause(handle, True)
    assert bench.driver.end(handle, 10.0)
    assert bench.driver.status(handle) is Phase.EXITED
    bench.driver.destroy(handle)


def test_memory_is_counted_by_the_kernel(bench: Bench) -> None:
    handle = bench.started("oom")
    end(bench, handle)
    assert bench.driver.collect(handle).usage.oom_kills
    bench.driver.destroy(handle)


def test_writable_mounts_keep_what_was_written(bench: Bench) -> None:
    handle = bench.started("write")
    end(bench, handle)
    assert (bench.root / "work-one" / "file").read_text() == "text"
    bench.driver.destroy(handle)


def test_a_command_that_cannot_run(bench: Bench) -> None:
    handle = bench.driver.prepare(bench.spec("absent"))
    with pytest.raises(CommandNotRunnable):
        bench.driver.start(handle)
    assert bench.driver.status(handle) in TERMINAL
    bench.driver.destroy(handle)


def test_another_process_goes_on_with_the_handle_alone(bench: Bench) -> None:
    handle = Handle.from_json(bench.started("short").to_json())
    other = bench.again()
    assert other.recover(handle) is Phase.RUNNING
    assert other.status(handle, 20.0) is Phase.EXITED
    assert other.collect(handle).exit_code == 0
    other.destroy(handle)
    assert handle.id not in bench.again().ids()


@requires_runc
def test_a_created_container_is_let_go_on_by_the_next_process(runc_bench: Bench, node_dir: Path) -> None:
    """Also where runc is a script that calls it, as vendors' runtimes are."""
    from animus_agent.sandbox.runc import RuncDriver

    wrapper = node_dir / "vendor-runc"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("runc")} "$@"\n')
    wrapper.chmod(0o755)
    driver, other = (RuncDriver(node_dir / "runc", runc_bench.driver._cgroups, runc=str(wrapper)) for _ in range(2))
    handle = driver.prepare(runc_bench.spec("short"))
    (Path(handle.directory) / "starting").touch()
    driver._create(handle)
    assert other.recover(handle) is Phase.STARTING
    other.resume_start(handle)
    assert other.recover(handle) is Phase.RUNNING
    assert other.status(handle, 20.0) is Phase.EXITED
    assert other.collect(handle).exit_code == 0
    other.destroy(handle)


def test_after_a_reboot_a_running_container_is_lost(bench: Bench) -> None:
    handle = bench.started("long")
    rebooted = dataclasses.replace(handle, boot_id="another")
    if bench.driver.name == "fake":
        rebooted = handle
        assert FakeDriver(boot="another").recover(rebooted) is Phase.LOST
    else:
        assert bench.again().recover(rebooted) is Phase.LOST
    bench.driver.destroy(handle)


def test_destroy_kills_and_may_be_repeated(bench: Bench) -> None:
    handle = bench.started("long")
    assert handle.id in bench.driver.ids()
    bench.driver.destroy(handle)
    bench.driver.destroy(handle)
    assert handle.id not in bench.driver.ids()
    assert bench.driver.status(handle) in TERMINAL
