"""What a broken rule is told as."""

from __future__ import annotations

from pathlib import Path

import pytest

from animus.catalog.v1 import project_pb2 as pb
from animus_kit.server import validate

PROTOS = Path(__file__).parents[2] / "proto" / "animus"


@pytest.mark.parametrize(
    ("request_", "field", "told"),
    [
        (pb.GetProjectRequest(name="digits"), "name", "must look like projects/{id}; an id is 1 to 63"),
        (pb.CreateProjectRequest(project_id="Digits"), "project_id", "an id is 1 to 63 lower-case letters"),
        (
            pb.CreateProjectRequest(project_id="a", project=pb.Project(display_name="a\x00b")),
            "project.display_name",
            "must have no control characters but tabs and line ends",
        ),
        (
            pb.CreateProjectRequest(project_id="a", project=pb.Project(labels={"Team": "x"})),
            "project.labels[Team]",
            "must be 1 to 63 of",
        ),
    ],
)
def test_a_pattern_is_told_in_words(request_, field: str, told: str) -> None:
    with pytest.raises(validate.RequestInvalid) as refused:
        validate.validate(request_)
    (violation,) = refused.value.violations
    assert (violation.field, violation.reason) == (field, "STRING_PATTERN")
    assert violation.description.startswith(told)


def test_no_words_stand_for_a_pattern_that_is_gone() -> None:
    text = "\n".join(path.read_text() for path in PROTOS.rglob("*.proto")).replace("\\\\", "\\")
    assert [pattern for pattern in validate._PATTERNS if f'"{pattern}"' not in text] == []


def test_a_pattern_without_words_speaks_for_itself() -> None:
    assert validate._in_words("^[a-z]+(?:\\.[a-zA-Z]+)+$") == ""
