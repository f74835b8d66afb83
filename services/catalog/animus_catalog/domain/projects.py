"""A project: the boundary of everything. ACTIVE -> ARCHIVED, and no way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from animus_catalog.domain.entry import Description
from animus_catalog.domain.errors import EtagMismatch, ProjectArchived


class ProjectState(StrEnum):
    """The names are those of `Project.State` on the wire."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Project:
    id: str
    description: Description
    state: ProjectState
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int = 1

    @property
    def name(self) -> str:
        return f"projects/{self.id}"

    @property
    def etag(self) -> str:
        return str(self.revision)


def require_active(project: Project) -> None:
    """Raises ProjectArchived: nothing changes in an archived project."""
    if project.state is not ProjectState.ACTIVE:
        raise ProjectArchived(project.name)


def archive(project: Project, etag: str, now: datetime) -> Project:
    """Returns the archived project; an archived one stays as it is. Raises EtagMismatch."""
    if project.state is ProjectState.ARCHIVED:
        return project
    if etag and etag != project.etag:
        raise EtagMismatch(project.name)
    return replace(project, state=ProjectState.ARCHIVED, update_time=now, revision=project.revision + 1)
