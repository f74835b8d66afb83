"""Projects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from animus_catalog.domain.errors import ResourceExists, ResourceNotFound
from animus_catalog.domain.projects import Project, ProjectState, require_active
from animus_catalog.store.entries import described, description
from animus_catalog.store.sql import any_text, insert_new
from animus_catalog.store.tables import projects
from animus_kit.server.paging import Page, filtered


def get(conn: Connection, id: str, lock: bool = False) -> Project:
    """Raises ResourceNotFound. With lock, whatever is being created in the project is waited for, and waits."""
    query = select(projects).where(projects.c.id == id)
    row = conn.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise ResourceNotFound("Project", f"projects/{id}")
    return _project(row)


def writable(conn: Connection, id: str) -> Project:
    """Returns the project and holds it active until the transaction ends. Raises ResourceNotFound, ProjectArchived."""
    row = conn.execute(select(projects).where(projects.c.id == id).with_for_update(read=True)).one_or_none()
    if row is None:
        raise ResourceNotFound("Project", f"projects/{id}")
    project = _project(row)
    require_active(project)
    return project


def page(conn: Connection, among: Collection[str] | None, request: Any) -> tuple[Sequence[Project], str]:
    """The page of the projects with these ids that a List request asks for, and the next one's token; None: all."""
    query = select(projects)
    if among is not None:
        query = query.where(projects.c.id == any_text(among))
    query = filtered(query, request, create_time=projects.c.create_time, labels=projects.c.labels)
    rows, token = Page.parse(request).fetch(conn, query, projects.c.create_time, projects.c.id)
    return [_project(row) for row in rows], token


def create(conn: Connection, project: Project) -> None:
    """Raises ResourceExists."""
    values = {"id": project.id, "state": project.state.value, **described(project)}
    if not insert_new(conn, projects, values):
        raise ResourceExists("Project", project.name)


def save(conn: Connection, project: Project) -> None:
    """Writes a project that was read with lock."""
    conn.execute(
        update(projects).where(projects.c.id == project.id).values(state=project.state.value, **described(project))
    )


def _project(row: Row) -> Project:
    return Project(
        id=row.id,
        description=description(row),
        state=ProjectState(row.state),
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
        revision=row.revision,
    )
