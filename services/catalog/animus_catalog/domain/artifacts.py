"""Artifacts: what committed attempts left behind, projected from the orchestrator's commit events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Artifact:
    project: str
    id: str
    attempt: str
    run: str
    step: str
    output: str
    type: str
    media_type: str
    manifest_digest: str
    file_count: int
    size: int
    metrics: Sequence[Metric]
    create_time: datetime

    @property
    def name(self) -> str:
        return f"projects/{self.project}/artifacts/{self.id}"
