"""What a person names and describes: projects, datasets, environments, experiments, models.

They share their mutable part, so its rules stand here once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from animus_catalog.domain.errors import EtagMismatch, UpdateMaskInvalid

MUTABLE = ("display_name", "description", "labels")

COLLECTIONS = {"Dataset": "datasets", "Environment": "environments", "Experiment": "experiments", "Model": "models"}


@dataclass(frozen=True, slots=True)
class Description:
    """The part of a resource that its users may change."""

    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset, environment, experiment or model. `project` and `id` are the last parts of names."""

    noun: str
    project: str
    id: str
    description: Description
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int = 1
    latest: int = 0
    """Number of the newest version, 0 before the first; environments and experiments have none."""

    @property
    def name(self) -> str:
        return f"projects/{self.project}/{COLLECTIONS[self.noun]}/{self.id}"

    @property
    def latest_version(self) -> str:
        return f"{self.name}/versions/v{self.latest}" if self.latest else ""

    @property
    def etag(self) -> str:
        return str(self.revision)


Changeable = TypeVar("Changeable")


def update(current: Changeable, wanted: Description, mask: Collection[str], etag: str, now: datetime) -> Changeable:
    """Returns `current` (an Entry or a Project) with the masked fields of `wanted` and the next revision.

    An empty mask stands for every field that is set. Raises EtagMismatch, UpdateMaskInvalid.
    """
    if etag and etag != current.etag:
        raise EtagMismatch(current.name)
    for path in mask:
        if path not in MUTABLE:
            raise UpdateMaskInvalid(path, MUTABLE)
    paths = mask or [name for name in MUTABLE if getattr(wanted, name)]
    changes = {path: getattr(wanted, path) for path in paths}
    return replace(
        current,
        description=replace(current.description, **changes),
        update_time=now,
        revision=current.revision + 1,
    )
