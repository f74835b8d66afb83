"""Pipeline documents: from bytes to a checked `PipelineDocument`, or to every problem with its place (docs/pipeline-spec.md).

load.py       the way in: bytes and media type
json_reader.py, yaml_reader.py   text to a tree of nodes with places
schema.py     the vocabulary that a document format is written in, also as JSON Schema
formats.py    animus/v1alpha1 and animus/v1 in this vocabulary
rules.py      what holds between fields: names, edges, cycles, parameters
document.py   the result
"""

from .document import PipelineDocument
from .load import JSON, YAML, PipelineInvalid, load, validate
from .problem import Problem

__all__ = ["JSON", "YAML", "PipelineDocument", "PipelineInvalid", "Problem", "load", "validate"]
