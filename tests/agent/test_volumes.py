"""Output volumes where something fails: no image, folder or loop device stays that no attempt holds."""

import errno
import os
from pathlib import Path

import pytest

from animus_agent.attempt import steps
from animus_agent.errors import SandboxUnavailable
from animus_agent.sandbox import quota
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.testing import MemoryReporter, World
from tests.agent.control import until


@pytest.mark.parametrize(
    "broken", ["animus_agent.attempt.prepare._lay_out", "animus_agent.attempt.prepare.layer.build"]
)
def test_a_preparation_that_fails_gives_its_volume_back(
    fake_world: World, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(broken, full)
    reporter = MemoryReporter()
    attempt = fake_world.attempt(fake_world.order("fake"), reporter)
    steps.execute(attempt)
    assert reporter.results[0].failure.reason == "NODE_DISK_FULL"
    volume = fake_world.root / "volumes" / attempt.volume_name
    assert volume.is_dir()
    steps.clean_up(attempt)
    until(lambda: not volume.exists(), "that its volume is gone")


def test_what_was_prepared_and_never_marked_is_destroyed(fake_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[str] = []
    monkeypatch.setattr(FakeDriver, "destroy", lambda self, handle: destroyed.append(handle.id))
    attempt = fake_world.attempt(fake_world.order("fake"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("animus_agent.attempt.directory.write_atomic", full)
    steps.execute(attempt)
    steps.clean_up(attempt)
    assert destroyed == [attempt.directory.id]
    until(lambda: not list((fake_world.root / "volumes").iterdir()), "that its volume is gone")


def test_a_volume_that_cannot_be_mounted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_free(*_: object) -> None:
        raise OSError(errno.ENXIO, "no free loop device")

    monkeypatch.setattr(quota, "_mkfs", lambda image: None)
    monkeypatch.setattr(quota, "_mount_image", none_free)
    monkeypatch.setattr(quota, "_mount", none_free)
    for kind in (quota.LoopVolumes, quota.TmpfsVolumes):
        volumes = kind(tmp_path / kind.kind)
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SandboxUnavailable) as refused:
            quota.QuotaPool(volumes).take(16 << 20)
        assert refused.value.reason == "QUOTA_UNAVAILABLE"
        assert volumes.names() == set() and len(os.listdir("/proc/self/fd")) == descriptors


def test_the_worker_outlives_a_volume_that_cannot_be_made(tmp_path: Path) -> None:
    tried: list[str] = []

    class Unformatted(quota.FolderVolumes):
        def create(self, name: str, size_bytes: int) -> quota.Volume:
            tried.append(name)
            raise SandboxUnavailable("mkfs.ext4: no space left on device", "QUOTA_UNAVAILABLE")

    pool = quota.QuotaPool(Unformatted(tmp_path / "volumes"))
    (tmp_path / "volumes" / "v9").mkdir()
    pool.start({"v9"})
    pool.prime(1 << 20)
    until(lambda: tried, "a try")
    pool.give_back("v9")
    until(lambda: not (tmp_path / "volumes" / "v9").exists(), "that it is removed")
    pool.close()
