"""Dataset versions: immutable, counted by the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Statistic:
    name: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    project: str
    dataset: str
    number: int
    manifest_digest: str
    file_count: int
    size: int
    schema: Sequence[Column]
    statistics: Sequence[Statistic]
    source: str
    parents: Sequence[str]
    """Full names, sorted."""
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)
    creator: str = ""
    create_time: datetime | None = None

    @property
    def id(self) -> str:
        return f"v{self.number}"

    @property
    def name(self) -> str:
        return f"projects/{self.project}/datasets/{self.dataset}/versions/{self.id}"

    def says_the_same_as(self, other: DatasetVersion) -> bool:
        """Whether a push of `other` would only repeat this version: what it holds, how it reads, what it comes from."""
        return (self.manifest_digest, list(self.schema), list(self.parents)) == (
            other.manifest_digest,
            list(other.schema),
            list(other.parents),
        )
