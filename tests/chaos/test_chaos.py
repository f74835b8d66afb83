"""The short form of `make chaos`: a few runs, one fault of each kind that reaches into leases, fencing and adoption."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import enclosure, faults, inside, load
from tests.system.world import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = 12
# Most of it is the start of a stack and the end of a lease.
SECONDS = 280


@pytest.mark.timeout(SECONDS + 30)
def test_nothing_is_lost_doubled_or_left_behind(tmp_path: Path) -> None:
    if lacking := enclosure.missing():
        pytest.skip(f"chaos: {'; '.join(lacking)}")
    command = [
        sys.executable, "-m", "tests.chaos", "--brief", "--seed", "1", "--runs", str(RUNS), "--storm-seconds", "90",
        "--gap", "2", "--keep", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history["runs"]) == RUNS
    assert {fault["kind"] for fault in history["faults"]} == set(inside.BRIEF_KINDS)
    assert {one["shape"] for one in history["asked"]} == set(load.SHAPES)


def test_a_seed_gives_the_same_storm_again() -> None:
    once, again = (faults.schedule(7, 3, 300, 1.5) for _ in range(2))
    assert once == again != faults.schedule(8, 3, 300, 1.5)
    assert {planned.kind for planned in once} == set(faults.KINDS)
    assert once == sorted(once, key=lambda planned: planned.at)


def test_a_run_that_is_killed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking := enclosure.missing():
        pytest.skip(f"chaos: {'; '.join(lacking)}")
    root = enclosure.folder()
    words = ["0", "--bind", "127.0.0.1", "--directory", str(root)]
    code = f"from tests.chaos import enclosure; enclosure.run('http.server', {words}, enclosure.Path('{root}'), 60)"
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        # Supervisor, unshare, first process and the run itself.
        wait_for(lambda: len(processes_with(str(root))) == 4, 20, "the run to begin")
    finally:
        runner.kill()
        runner.wait()
    wait_for(lambda: not processes_with(str(root)), 20, "the run to end with its supervisor")
    monkeypatch.setattr(enclosure, "YOUNG_SECONDS", 0.0)
    enclosure.folder().rmdir()
    assert not root.exists()


def processes_with(text: str) -> list[int]:
    """Those with this in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and text in (entry / "cmdline").read_bytes().decode():
                found.append(int(entry.name))
    return found


def test_a_machine_that_cannot_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.chaos.__main__ import main

    monkeypatch.setattr(enclosure, "missing", lambda: ["missing: nft (apt-get install nftables)"])
    assert main([]) == 3
    assert capsys.readouterr().err == "missing: nft (apt-get install nftables)\n"
