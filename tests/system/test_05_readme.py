"""The README's tour, word by word, in a clone of this repository and on a stack of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_cli.stack.layout import Layout
from tests.system.conftest import _why_not

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"


def commands() -> list[str]:
    """Every line of the blocks that are marked `sh tour`."""
    blocks = re.findall(r"^```sh tour\n(.*?)^```", README.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_tour_has_commands() -> None:
    found = commands()
    assert found[0].startswith("animus up") and found[-1].startswith("animus down")


@pytest.fixture
def clone() -> Iterator[Path]:
    """A clone, with this venv, since making one would take a minute and is `make setup`'s own test."""
    if reason := _why_not():
        pytest.skip(reason)
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs the repository's .git folder")
    if not (REPOSITORY / ".venv" / "bin" / "animus").exists():
        pytest.skip("needs .venv (make setup)")
    folder = Path(tempfile.mkdtemp(prefix="animus-tour-", dir="/var/tmp"))
    folder.chmod(0o711)
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", REPOSITORY, folder / "clone"], check=True)
    # What is not committed yet is part of the tour too.
    for name in ("README.md", "examples"):
        target = folder / "clone" / name
        if target.is_dir():
            shutil.rmtree(target)
            shutil.copytree(REPOSITORY / name, target)
        else:
            shutil.copy(REPOSITORY / name, target)
    (folder / "clone" / ".venv").symlink_to(REPOSITORY / ".venv")
    try:
        yield folder / "clone"
    finally:
        subprocess.run(
            [REPOSITORY / ".venv" / "bin" / "animus", "down"], env=_environment(folder / "clone"), check=True
        )
        shutil.rmtree(folder, ignore_errors=True)


def _environment(clone: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANIMUS_")}
    path = f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "ANIMUS_DIR": str(clone.parent / "stack")}


@pytest.mark.timeout(400)
def test_every_command_of_the_tour_works(clone: Path) -> None:
    for command in commands():
        done = subprocess.run(
            ["sh", "-euc", command], cwd=clone, env=_environment(clone), capture_output=True, text=True, timeout=300
        )
        if done.returncode == 3 and "build_image" in command:
            pytest.skip(f"the image cannot be built here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    assert leftovers(clone.parent) == []


def leftovers(folder: Path) -> list[str]:
    """What a stack in that folder left running or mounted."""
    agent = Layout(folder / "stack").agent_run
    marks = (str(folder), str(agent))
    found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if any(m in line for m in marks)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(mark in command + environment for mark in marks):
            found.append(f"{process.name}: {command}")
    return found + [str(agent)] * agent.exists()
