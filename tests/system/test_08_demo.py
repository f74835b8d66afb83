"""`make demo-smoke`, as it is: a stack of its own, two steps, what was recorded, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.conftest import _why_not
from tests.system.test_05_readme import REPOSITORY, leftovers


@pytest.mark.timeout(200)
def test_the_short_demo() -> None:
    if reason := _why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="animus-demo-", dir="/var/tmp") as parent:
        Path(parent).chmod(0o711)
        environment = {**os.environ, "ANIMUS_DEMO_DIR": f"{parent}/stack"}
        done = subprocess.run(
            [sys.executable, "-m", "examples.digits.demo", "--smoke"],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        if done.returncode == 3:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout + done.stderr
        for part in (
            "rows=1797",
            "registered-as",
            "datasets/digits/versions/v1",
            "orchestrator.run.succeeded",
            "all of it in",
        ):
            assert part in done.stdout
        assert not Path(parent, "stack").exists()
        assert leftovers(Path(parent)) == []
