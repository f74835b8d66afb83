"""docs/schemas/ holds the JSON Schemas of the loader's own tables.

After a change of formats.py: `ANIMUS_WRITE_SCHEMAS=1 pytest tests/orchestrator/test_pipeline_schemas.py`. The published
animus/v1alpha1 never changes.
"""

import json
import os
from pathlib import Path

import jsonschema
import pytest

from animus_orchestrator.domain import pipeline
from animus_orchestrator.domain.pipeline import JSON, YAML, formats

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((Path(__file__).parent / "pipelines").iterdir()) + sorted((ROOT / "examples").glob("*/*.yaml"))


def path_of(version):
    return ROOT / "docs" / "schemas" / f"{version.replace('/', '-')}.json"


@pytest.mark.parametrize("version", formats.FORMATS)
def test_the_schema_is_that_of_the_loader(version):
    text = json.dumps(formats.json_schema(version), indent=2) + "\n"
    if os.environ.get("ANIMUS_WRITE_SCHEMAS"):
        path_of(version).write_text(text)
    assert path_of(version).read_text() == text
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_valid_documents_are_so_by_their_schema_and_no_other(path):
    document = pipeline.load(path.read_bytes(), JSON if path.suffix == ".json" else YAML)
    value = json.loads(document.canonical)
    for version in formats.FORMATS:
        validator = jsonschema.Draft202012Validator(json.loads(path_of(version).read_text()))
        assert validator.is_valid(value) == (version == document.api_version)
