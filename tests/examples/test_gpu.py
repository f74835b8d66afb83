"""The GPU example as files: its document, and its step on a machine without a driver."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from animus_agent.gpu.nvml import NvmlInventory
from animus_orchestrator.domain.pipeline.load import YAML, validate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "gpu"


def test_the_document_is_valid_and_names_the_script() -> None:
    text = (EXAMPLE / "pipeline.yaml").read_text()
    assert validate(text.encode(), YAML) == ()
    (step,) = yaml.safe_load(text)["spec"]["steps"]
    assert (ROOT / step["args"][0].removeprefix("/animus/code/")).is_file()
    assert step["resources"]["gpu"] == 1


def test_the_step_fails_loudly_without_a_driver(tmp_path: Path) -> None:
    if NvmlInventory().read().devices:
        pytest.skip("this machine has a driver: tests/gpu runs the step for real")
    done = subprocess.run([sys.executable, EXAMPLE / "code" / "train.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0 and "libcuda.so.1" in done.stderr
