"""docs/pipeline-spec.md and docs/execution.md say what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from animus_kit.documents import action
from animus_orchestrator.domain import pipeline
from animus_orchestrator.domain.pipeline import YAML, formats
from animus_orchestrator.domain.pipeline.schema import List, Object

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs/pipeline-spec.md").read_text()
EXECUTION = (ROOT / "docs/execution.md").read_text()
SOURCES = [
    *(ROOT / "services/orchestrator/animus_orchestrator/domain/pipeline").glob("*.py"),
    ROOT / "services/orchestrator/animus_orchestrator/domain/planner.py",
]
NOT_REASONS = {
    "SOURCE_DATE_EPOCH",
    "VALUE_TYPE",  # becomes PARAMETER_TYPE
    "PATTERN",  # every pattern has a reason of its own
    "JSON",
    "YAML",
}


def test_the_example_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", SPEC, re.DOTALL)
    assert pipeline.validate(example.encode(), YAML) == ()


def test_every_reason_is_listed_and_nothing_else():
    found = {
        name for path in SOURCES for name in re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)*)"', path.read_text())
    } - NOT_REASONS
    table = SPEC[SPEC.index("## Reasons") :]
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table)) == found


@pytest.mark.parametrize("version", formats.FORMATS)
def test_every_field_is_described(version):
    def names(kind):
        if isinstance(kind, List):
            yield from names(kind.item)
        elif isinstance(kind, Object):
            for name, value in kind.fields.items():
                yield name
                yield from names(value)

    missing = {name for name in names(formats.FORMATS[version]) if not re.search(rf"\b{name}\b", SPEC)}
    assert not missing


def test_every_field_of_an_action_is_in_the_table():
    section = EXECUTION[EXECUTION.index("## What is in an action") :]
    for field in fields(action.Action):
        head, *rest = field.name.split("_")
        assert f"`{head}{''.join(map(str.capitalize, rest))}`" in section
    for name, value in action.BASE_ENVIRONMENT.items():
        assert f"`{name}={value}`" in section
    for name in action.THREAD_VARIABLES:
        assert f"`{name}`" in section
    assert str(action.DEFAULT_SOURCE_DATE_EPOCH) in section
    assert action.Action.type() == "animus.dev/action/v1"
