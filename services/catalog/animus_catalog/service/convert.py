"""Conversions that several services need."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from animus.type.v1 import manifest_pb2, metric_pb2
from animus_catalog.domain.artifacts import Metric
from animus_catalog.domain.contents import Entry, Kind
from animus_catalog.domain.entry import Description
from animus_kit import names

PROJECT = "projects/{project}"
DATASET = PROJECT + "/datasets/{dataset}"
DATASET_VERSION = DATASET + "/versions/{version}"
CODE_SNAPSHOT = PROJECT + "/codeSnapshots/{snapshot}"
ENVIRONMENT = PROJECT + "/environments/{environment}"
ENVIRONMENT_LOCK = ENVIRONMENT + "/locks/{lock}"
EXPERIMENT = PROJECT + "/experiments/{experiment}"
ARTIFACT = PROJECT + "/artifacts/{artifact}"
MODEL = PROJECT + "/models/{model}"
MODEL_VERSION = MODEL + "/versions/{version}"

_KINDS = {
    Kind.FILE: manifest_pb2.ManifestEntry.KIND_FILE,
    Kind.EXECUTABLE: manifest_pb2.ManifestEntry.KIND_EXECUTABLE,
    Kind.SYMLINK: manifest_pb2.ManifestEntry.KIND_SYMLINK,
}


def ids(pattern: str, name: str) -> tuple[str, ...]:
    """The ids in a name, from left to right. Raises InvalidName."""
    return tuple(names.parse(pattern, name).values())


def timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def description(resource: Any) -> Description:
    return Description(resource.display_name, resource.description, dict(resource.labels))


def metrics(values: Iterable[Metric]) -> list[metric_pb2.Metric]:
    return [metric_pb2.Metric(name=metric.name, value=metric.value) for metric in values]


def manifest_entry(entry: Entry) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(
        path=entry.path,
        kind=_KINDS[entry.kind],
        size_bytes=entry.size,
        digest=entry.digest,
        target=entry.target,
    )
