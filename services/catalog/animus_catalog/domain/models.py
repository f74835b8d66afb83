"""Models and their versions. A version is a registered artifact; later states join REGISTERED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from animus_catalog.domain.artifacts import Artifact, Metric


class ModelVersionState(StrEnum):
    """The names are those of `ModelVersion.State` on the wire."""

    REGISTERED = "REGISTERED"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    project: str
    model: str
    number: int
    artifact: str
    manifest_digest: str
    run: str
    state: ModelVersionState
    metrics: Sequence[Metric]
    description: str
    creator: str
    create_time: datetime
    update_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1

    @property
    def id(self) -> str:
        return f"v{self.number}"

    @property
    def name(self) -> str:
        return f"projects/{self.project}/models/{self.model}/versions/{self.id}"

    @property
    def etag(self) -> str:
        return str(self.revision)


def register(
    artifact: Artifact,
    model: str,
    number: int,
    description: str,
    labels: Mapping[str, str],
    creator: str,
    now: datetime,
) -> ModelVersion:
    """Returns the artifact as version `number` of the model, with what it proved to be worth."""
    return ModelVersion(
        project=artifact.project,
        model=model,
        number=number,
        artifact=artifact.name,
        manifest_digest=artifact.manifest_digest,
        run=artifact.run,
        state=ModelVersionState.REGISTERED,
        metrics=artifact.metrics,
        description=description,
        labels=labels,
        creator=creator,
        create_time=now,
        update_time=now,
    )
