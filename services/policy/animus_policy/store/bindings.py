"""Role bindings in SQL. Every function takes a connection and returns domain objects."""

from collections.abc import Iterable

from sqlalchemy import Connection, Row, Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from ..domain.roles import Role, RoleBinding
from .tables import project_revisions, role_bindings


def lock_project(conn: Connection, project: str) -> None:
    """Makes changes of one project's bindings wait for each other."""
    conn.execute(insert(project_revisions).values(project=project, revision=0).on_conflict_do_nothing())
    conn.execute(select(project_revisions.c.revision).where(project_revisions.c.project == project).with_for_update())


def bump_revision(conn: Connection, project: str) -> None:
    revision = project_revisions.c.revision
    conn.execute(update(project_revisions).where(project_revisions.c.project == project).values(revision=revision + 1))


def revision(conn: Connection, project: str) -> int:
    query = select(project_revisions.c.revision).where(project_revisions.c.project == project)
    return conn.execute(query).scalar_one_or_none() or 0


def get(conn: Connection, name: str) -> RoleBinding | None:
    row = conn.execute(select(role_bindings).where(role_bindings.c.name == name)).one_or_none()
    return from_row(row) if row else None


def find(conn: Connection, project: str, member: str, role: Role) -> RoleBinding | None:
    row = conn.execute(
        select(role_bindings).where(
            role_bindings.c.project == project, role_bindings.c.member == member, role_bindings.c.role == role.value
        )
    ).one_or_none()
    return from_row(row) if row else None


def add(conn: Connection, binding: RoleBinding) -> None:
    conn.execute(
        insert(role_bindings).values(
            name=binding.name,
            project=binding.project,
            member=binding.member,
            role=binding.role.value,
            creator=binding.creator,
            create_time=binding.create_time,
        )
    )


def remove(conn: Connection, name: str) -> None:
    conn.execute(delete(role_bindings).where(role_bindings.c.name == name))


def of_members(conn: Connection, members: Iterable[str], project: str | None = None) -> list[RoleBinding]:
    """Every binding that names one of the members, in one project or in all."""
    query = select(role_bindings).where(role_bindings.c.member.in_(list(members)))
    if project is not None:
        query = query.where(role_bindings.c.project == project)
    return [from_row(row) for row in conn.execute(query)]


def listing(project: str, member: str) -> Select:
    query = select(role_bindings).where(role_bindings.c.project == project)
    return query.where(role_bindings.c.member == member) if member else query


def from_row(row: Row) -> RoleBinding:
    return RoleBinding(row.name, row.project, row.member, Role(row.role), row.creator, row.create_time)
