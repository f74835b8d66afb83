"""Several agents on one machine, and what one leaves that does not come back."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_agent import leftovers, node, uids
from animus_agent.attempt import steps
from animus_agent.errors import SandboxUnavailable
from animus_agent.sandbox import quota
from animus_agent.settings import Settings
from animus_agent.testing import World
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import until


def state(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def test_two_agents_have_no_user_id_in_common(tmp_path: Path) -> None:
    claims = tmp_path / "claims"
    one, two = (uids.claim(state(tmp_path, name), claims) for name in ("one", "two"))
    assert one != two
    # The next process of an agent has its block, with the containers that it adopts.
    assert uids.claim(tmp_path / "two", claims) == two
    ids = [
        range(uids.base(block, number), uids.base(block, number) + uids.RANGE)
        for block in (one, two)
        for number in (0, 1, uids.RANGES - 1)
    ]
    ends = sorted((ids.start, ids.stop) for ids in ids)
    assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))
    assert uids.base(one, uids.RANGES) == uids.base(one, 0)


def test_a_block_comes_back_with_a_purge_or_when_its_agent_is_gone(tmp_path: Path) -> None:
    claims = tmp_path / "claims"
    one = uids.claim(state(tmp_path, "one"), claims)
    uids.release(tmp_path / "one", claims)
    assert uids.claim(state(tmp_path, "two"), claims) == one
    shutil.rmtree(tmp_path / "two")
    assert uids.claim(state(tmp_path, "three"), claims) == one


def test_when_all_are_taken_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "BLOCKS", range(1, 2))
    uids.claim(state(tmp_path, "one"), tmp_path / "claims")
    with pytest.raises(SandboxUnavailable) as refused:
        uids.claim(state(tmp_path, "two"), tmp_path / "claims")
    assert refused.value.reason == "UID_RANGES_UNAVAILABLE"


def test_every_id_is_a_valid_one() -> None:
    assert uids.base(uids.BLOCKS[-1], uids.RANGES - 1) + uids.RANGE < (1 << 32) - 1
    assert uids.base(uids.BLOCKS[0], 0) > 65536


@pytest.fixture
def machine(node_dir: Path) -> Iterator[Path]:
    """A /run of its own."""
    run = node_dir / "machine-run"
    run.mkdir(mode=0o711)
    yield run
    for mount in leftovers._mounts_below(node_dir):
        quota.unmount(mount)


@requires_runc
def test_what_an_agent_left_that_is_gone_is_ended_and_removed(machine: Path, node_dir: Path) -> None:
    gone = Settings(
        agent_state_dir=node_dir / "gone", agent_run_dir=machine / "animus-agent-gone", agent_tmpfs_volumes=True,
        agent_spare_volumes=0,
    )  # fmt: skip
    parts = node.assemble(gone)
    parts.quota.start(set())
    world = World(node_dir / "gone", parts.driver, parts.quota)
    attempt = world.attempt(world.order("/bin/sh", "-c", "sleep 600"))
    with pytest.raises(ZeroDivisionError):
        steps.execute(attempt, lambda name: 1 // 0 if name == "run" else None)
    parts.driver.start(attempt.handle)
    pid = int((attempt.directory.path / "pid").read_text())
    (container,) = parts.driver.ids()
    beside = machine / "animus-agent-other"
    beside.mkdir()
    leftovers.note(beside, node_dir)
    mine = machine / "animus-agent"
    mine.mkdir()
    assert leftovers.sweep(mine) == []
    # Its folder goes while it runs, as when somebody deletes a clone.
    (node_dir / "gone").rename(node_dir / "moved")
    assert leftovers.sweep(mine) == ["animus-agent-gone"]
    assert not gone.agent_run_dir.exists() and beside.exists()
    # conmon is the one to reap it.
    until(lambda: not Path(f"/proc/{pid}").exists(), "the container's end")
    parent = hashlib.sha256(str(node_dir / "gone").encode()).hexdigest()[:12]
    assert list(Path("/sys/fs/cgroup").glob(f"*/animus/{parent}/{container}")) == []
    uids.release(node_dir / "gone")


@requires_runc
def test_a_purge_leaves_nothing_outside_of_the_state(machine: Path, node_dir: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
        "ANIMUS_AGENT_STATE_DIR": str(node_dir / "one"),
        "ANIMUS_AGENT_RUN_DIR": str(machine / "animus-agent"),
        "ANIMUS_AGENT_TMPFS_VOLUMES": "true",
    }
    subprocess.run([sys.executable, "-m", "animus_agent", "purge"], env=environment, check=True, timeout=60)
    assert list(machine.iterdir()) == []
    assert str(node_dir / "one") not in "".join(path.read_text() for path in uids.CLAIMS.glob("[0-9]*"))


def test_a_token_file_that_is_not_there_is_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from animus_agent.__main__ import main

    monkeypatch.setenv("ANIMUS_AGENT_STATE_DIR", str(tmp_path))
    assert main(["enroll", "localhost:1", "--token-file", str(tmp_path / "missing")]) == 2
    assert "missing: No such file or directory" in capsys.readouterr().err


def test_the_doctor_tells_what_is_off_from_what_failed() -> None:
    from animus_agent import doctor
    from animus_agent.sandbox import canary

    features = {
        "network-allow-list": {"held": False, "detail": canary.EGRESS_OFF},
        "seccomp": {"held": False, "detail": "x"},
    }
    told = doctor._text({"enrolled": False, "features": features, "problems": []})
    assert "off  network-allow-list" in told and "FAIL seccomp" in told and "not joined yet" in told
