"""An unprivileged account and a folder that is closed to it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from animus_kit import passage

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account and a mount namespace")


def nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def test_the_topmost_closed_folder_is_named() -> None:
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        (top / "closed" / "deeper").mkdir(parents=True)
        top.chmod(0o755)
        assert passage.barrier(nobody(), top / "closed" / "deeper") is None
        (top / "closed").chmod(0o700)
        assert passage.barrier(nobody(), top / "closed" / "deeper") == top / "closed"
        (top / "closed").chmod(0o711)
        assert passage.barrier(nobody(), top / "closed" / "deeper") is None


def test_without_an_account_nothing_changes() -> None:
    assert passage.to(["a", Path("b")], None) == (["a", "b"], {})


@needs_root
@pytest.mark.parametrize(
    "closed", sorted({Path(sys.prefix).parent, Path(sys.prefix).parents[-2]}), ids=lambda p: f"depth{len(p.parts)}"
)
def test_the_account_sees_the_installation_and_nothing_beside_it(closed: Path) -> None:
    before = Path("/proc/mounts").read_text()
    installation = passage._installation(closed)
    beside = [str(p) for p in closed.iterdir() if not any(p in (kept, *kept.parents) for kept in installation)]
    script = (
        "import animus_kit, json, os;"
        f"print(json.dumps([os.getuid(), os.getgroups(), [p for p in {beside!r} if os.path.lexists(p)]]))"
    )
    who = nobody()
    command = [sys.executable, "-m", "animus_kit.passage", who.pw_uid, who.pw_gid, closed, sys.executable, "-c", script]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd="/", timeout=60)
    if "cannot be opened here" in done.stderr:
        pytest.skip("needs a mount namespace, which this machine does not give")
    assert done.returncode == 0, done.stderr
    uid, groups, seen = json.loads(done.stdout)
    assert (uid, groups) == (who.pw_uid, [])
    assert seen == [], "the rest of the folder is not there"
    assert Path("/proc/mounts").read_text() == before, "the machine's own mounts stay as they are"
