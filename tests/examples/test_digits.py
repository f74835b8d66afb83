"""The digits example as files: documents that validate, and code that the documents name."""

import json
from pathlib import Path

import pytest
import yaml

from animus_orchestrator.domain.pipeline.load import YAML, validate
from examples.digits import build_image, export_data
from examples.images.wheels import WheelsUnavailable

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits"
DOCUMENTS = ("pipeline.yaml", "smoke.yaml")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_valid_before_and_after_an_image_is_named(name: str) -> None:
    text = (EXAMPLE / name).read_text()
    named = build_image.with_image(text, "sha256:" + "a" * 64)
    assert validate(text.encode(), YAML) == ()
    assert validate(named.encode(), YAML) == ()
    assert build_image.NO_IMAGE not in named


def test_every_script_that_a_step_runs_is_in_the_repository() -> None:
    steps = yaml.safe_load((EXAMPLE / "pipeline.yaml").read_text())["spec"]["steps"]
    scripts = {step["args"][0].removeprefix("/animus/code/") for step in steps}
    assert len(steps) >= 4
    assert all((ROOT / script).is_file() for script in scripts)


def test_steps_catch_nothing() -> None:
    """A missing import must fail the step, not change what it does."""
    assert [path.name for path in (EXAMPLE / "code").glob("*.py") if "except" in path.read_text()] == []


def test_wheels_are_pinned_by_hash() -> None:
    lines = [line for line in (EXAMPLE / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_the_export_is_what_the_steps_read(tmp_path: Path) -> None:
    try:
        rows = export_data.export(tmp_path)
    except WheelsUnavailable as error:
        pytest.skip(f"the wheels cannot be fetched: {error}")
    schema = json.loads((tmp_path / "schema.json").read_text())
    pixels = (tmp_path / "pixels.csv").read_text().splitlines()
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    assert rows == schema["rows"] == len(pixels) == len(labels) == 1797
    assert {line.count(",") for line in pixels} == {schema["pixels"]["columns"] - 1}
    assert set(labels) == set("0123456789")
