"""The two formats. `animus/v1alpha1` is published and stays accepted as it is; `animus/v1` adds optional fields."""

from typing import Any

from animus_kit.documents.kinds import LABEL_PATTERN

from . import quantity
from .schema import Boolean, Choice, Integer, List, Map, Number, Object, Scalar, Text, extend

V1ALPHA1 = "animus/v1alpha1"
V1 = "animus/v1"

MAX_STEPS = 1000

NAME = Text(LABEL_PATTERN, "NAME_INVALID", "a name is a lower-case DNS label: a-z, 0-9 and '-', at most 63", 1024)
ENV_NAME = Text("[A-Za-z_][A-Za-z0-9_]*", "NAME_INVALID", "letters, digits and '_', no digit first", 256)
PARAMETER_NAME = Text(
    "[A-Za-z_][A-Za-z0-9_]{0,62}", "NAME_INVALID", "letters, digits and '_', no digit first, at most 63"
)
DESCRIPTION = Text(empty=True)
WORD = Text(max_bytes=65536, empty=True, control=True)
_PART = "[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
IMAGE = Text(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*@sha256:[0-9a-f]{{64}}",
    "IMAGE_NOT_PINNED",
    "an image is pinned by digest alone: repository@sha256:<64 hex digits>, no tag",
    1024,
)
MEDIA_TYPE = Text(
    r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*", "MEDIA_TYPE_INVALID", "for example text/csv", 255
)
LABELS = Map(r"[a-z0-9](?:[-a-z0-9_./]{0,61}[a-z0-9])?", Text(max_bytes=256, empty=True))

METADATA = Object({"name": NAME, "description": DESCRIPTION, "labels": LABELS}, frozenset({"description", "labels"}))
OUTPUT = Object(
    {"name": NAME, "type": NAME, "mediaType": MEDIA_TYPE, "description": DESCRIPTION},
    frozenset({"mediaType", "description"}),
)
RESOURCES = Object(
    {
        "cpu": Text(
            quantity.CPU_PATTERN, "QUANTITY_INVALID", "for example 2, 0.5 or 500m", 32, parse=quantity.cpu_millis
        ),
        "memory": Text(
            quantity.MEMORY_PATTERN, "QUANTITY_INVALID", "for example 2Gi or 512Mi", 32, parse=quantity.memory_bytes
        ),
        "gpu": Integer(0, 1024),
    }
)
RETRY = Object(
    {
        "maxAttempts": Integer(1, 1000),
        "backoff": Object(
            {
                "type": Choice(("fixed", "exponential")),
                "initialSeconds": Integer(0, 86_400),
                "maxSeconds": Integer(0, 86_400),
                "multiplier": Number(1, 1000),
            }
        ),
    }
)
STEP = Object(
    {
        "name": NAME,
        "image": IMAGE,
        "command": List(WORD),
        "args": List(WORD),
        "inputs": Object(
            {
                "datasets": List(Object({"name": NAME, "datasetRef": NAME})),
                "artifacts": List(Object({"name": NAME, "fromStep": NAME, "artifact": NAME})),
            }
        ),
        "outputs": Object({"artifacts": List(OUTPUT)}),
        "env": List(Object({"name": ENV_NAME, "value": WORD})),
        "resources": RESOURCES,
        "retryPolicy": RETRY,
    }
)
DEPENDENCIES = List(Object({"from": NAME, "to": NAME}), maximum=100_000)
SPEC = Object({"steps": List(STEP, maximum=MAX_STEPS, least=1), "dependencies": DEPENDENCIES})
PIPELINE = Object(
    {
        "apiVersion": Choice((V1ALPHA1,), "API_VERSION_UNKNOWN"),
        "kind": Choice(("Pipeline",)),
        "specVersion": Text(max_bytes=64),
        "metadata": METADATA,
        "spec": SPEC,
    },
    frozenset({"metadata"}),
)

COMPARE = Object({"method": Choice(("bytes", "numeric", "ignore")), "tolerance": Number(0)}, frozenset({"tolerance"}))
HOST = Text(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:[1-9][0-9]{0,4}", "HOST_INVALID", "a host and port, as name:443", 300)
STEP_V1 = extend(
    STEP,
    required={"outputs": Object({"artifacts": List(extend(OUTPUT, optional={"compare": COMPARE}))})},
    optional={
        "timeout": Text(
            quantity.DURATION_PATTERN, "QUANTITY_INVALID", "for example 24h, 90m or 1h30m", 32, parse=quantity.seconds
        ),
        "secrets": List(Object({"name": NAME, "reference": Text(max_bytes=512), "version": Text(max_bytes=128)}), 64),
        "cache": Object({"enabled": Boolean(), "host": Choice(("any", "same"))}),
        "isolation": Object({"aslr": Boolean()}),
        "network": Object({"mode": Choice(("none", "allow-list")), "allow": List(HOST, 256)}),
        "accelerator": Object({"kind": NAME, "model": Text(max_bytes=128)}, frozenset({"model"})),
    },
)
PARAMETER = Object(
    {
        "name": PARAMETER_NAME,
        "type": Choice(("string", "int64", "double", "bool")),
        "default": Scalar(),
        "description": DESCRIPTION,
    },
    frozenset({"default", "description"}),
)
GATE = Object(
    {"name": NAME, "type": Choice(("approval",)), "before": List(NAME), "approvals": Integer(1, 100)},
)
PIPELINE_V1 = extend(
    PIPELINE,
    required={
        "apiVersion": Choice((V1,), "API_VERSION_UNKNOWN"),
        "spec": extend(
            SPEC,
            required={"steps": List(STEP_V1, maximum=MAX_STEPS, least=1)},
            optional={"parameters": List(PARAMETER), "gates": List(GATE, 100)},
        ),
    },
)

FORMATS = {V1ALPHA1: PIPELINE, V1: PIPELINE_V1}


def json_schema(version: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a format. It holds for what a schema can say; the rules between fields are beyond it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://animus.dev/schemas/{version.replace('/', '-')}.json",
        "title": f"Pipeline, {version}",
        **FORMATS[version].schema(),
    }
