"""Nodes for tests: real runc where the machine can, the fake driver everywhere."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_agent.sandbox import cgroup, quota
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import World
from tests.agent.control import ControlPlane


@pytest.fixture
def node_dir() -> Iterator[Path]:
    """A folder that containers' mapped users may pass through, which pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="an-"))
    path.chmod(0o711)
    yield path
    for mount in sorted((path / "volumes").glob("*")) if (path / "volumes").exists() else ():
        quota.unmount(mount)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def runc_driver(node_dir: Path) -> Iterator[RuncDriver]:
    driver = RuncDriver(node_dir / "runc", cgroup.detect(f"/animus-test/{node_dir.name}"))
    yield driver
    for container in driver.ids():
        driver.remove(container)
    driver.close()


@pytest.fixture
def runc_world(node_dir: Path, runc_driver: RuncDriver) -> Iterator[World]:
    pool = quota.QuotaPool(quota.choose(node_dir / "volumes", allow_tmpfs=True))
    pool.start(set())
    yield World(node_dir, runc_driver, pool)
    pool.close()


@pytest.fixture
def fake_world(node_dir: Path) -> Iterator[World]:
    pool = quota.QuotaPool(quota.FolderVolumes(node_dir / "volumes"))
    pool.start(set())
    yield World(node_dir, FakeDriver(), pool)
    pool.close()


@pytest.fixture
def control(fake_world: World, tmp_path: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path, fake_world)
    yield plane
    plane.close()
