"""The content of a project's manifests and images, row by row: for pages, differences and grants."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from animus_catalog.domain.contents import Change, Contents, Entry, Kind
from animus_catalog.domain.errors import BlobNotFound
from animus_catalog.store.sql import any_text
from animus_catalog.store.tables import container_entries as entries
from animus_catalog.store.tables import containers, project_blobs, staged_blobs
from animus_kit.server.paging import Page

MANIFEST, IMAGE = "manifest", "image"


@dataclass(frozen=True, slots=True)
class Container:
    id: int
    digest: str
    file_count: int
    size: int


def find(conn: Connection, project: str, digest: str, kind: str = MANIFEST) -> Container | None:
    row = conn.execute(
        select(containers).where(
            containers.c.project == project, containers.c.digest == digest, containers.c.kind == kind
        )
    ).one_or_none()
    return Container(row.id, row.digest, row.file_count, row.size) if row is not None else None


def get(conn: Connection, project: str, digest: str, kind: str = MANIFEST) -> Container:
    """Raises BlobNotFound: an output whose manifest was never sealed has no content that could be shown."""
    found = find(conn, project, digest, kind)
    if found is None:
        raise BlobNotFound(f"projects/{project}", digest)
    return found


def add(conn: Connection, project: str, contents: Contents, kind: str = MANIFEST) -> None:
    """Stores the rows of a manifest or image. Idempotent: under one digest there is one content.

    Who adds several in one transaction does so in the order of digests, as drop_unowned locks them.
    """
    new = (
        upsert(containers)
        .values(project=project, digest=contents.digest, kind=kind, file_count=contents.file_count, size=contents.size)
        .on_conflict_do_nothing()
        .returning(containers.c.id)
    )
    there = (
        select(containers.c.id)
        .where(containers.c.project == project, containers.c.digest == contents.digest, containers.c.kind == kind)
        .with_for_update(read=True, key_share=True)
    )
    while (id := conn.scalar(new)) is None:
        # Held until this transaction ends: the end of another attempt may be about to forget it, or has just done so.
        if conn.scalar(there) is not None:
            return
    # COPY takes a million rows in seconds; the driver's cursor belongs to this very transaction.
    with (
        conn.connection.cursor() as cursor,
        cursor.copy("COPY container_entries (container, path, kind, size, digest, target) FROM STDIN") as copy,
    ):
        for entry in contents.read():
            copy.write_row((id, entry.path, entry.kind.value, entry.size, entry.digest, entry.target))


def page(conn: Connection, container: int, request: Any) -> tuple[Sequence[Entry], str]:
    """The page that a List request asks for, in the manifest's order, and the next one's token."""
    query = select(entries).where(entries.c.container == container)
    rows, token = Page.parse(request).fetch_by(conn, query, [(entries.c.path, True)])
    return [_entry(row) for row in rows], token


def only_entry(conn: Connection, container: int) -> Entry:
    """The entry of a manifest that has one."""
    return _entry(conn.execute(select(entries).where(entries.c.container == container)).one())


def entry(conn: Connection, container: int, path: str) -> Entry | None:
    row = conn.execute(select(entries).where(entries.c.container == container, entries.c.path == path)).one_or_none()
    return _entry(row) if row is not None else None


def names(conn: Connection, project: str, container_digest: str, digest: str) -> bool:
    """Whether the manifest or image, as the project has it, holds the digest."""
    query = select(
        exists().where(
            containers.c.project == project,
            containers.c.digest == container_digest,
            entries.c.container == containers.c.id,
            entries.c.digest == digest,
        )
    )
    return bool(conn.scalar(query))


def readable_in(
    conn: Connection, project: str, container_digests: Collection[str], digests: Collection[str]
) -> Mapping[str, int]:
    """Bytes of those of the digests that are one of the project's containers, or in one of them."""
    mine = containers.c.project == project, containers.c.digest == any_text(container_digests)
    inside = (
        select(entries.c.digest)
        .join(containers, containers.c.id == entries.c.container)
        .where(*mine, entries.c.digest == any_text(digests))
    )
    themselves = select(containers.c.digest).where(*mine, containers.c.digest == any_text(digests))
    wanted = inside.union(themselves).scalar_subquery()
    # A container may have been sealed and never committed; what counts is whether the bytes are there for the project.
    owned = select(project_blobs.c.digest, project_blobs.c.size).where(
        project_blobs.c.project == project, project_blobs.c.digest.in_(wanted)
    )
    staged = select(staged_blobs.c.digest, staged_blobs.c.size).where(
        staged_blobs.c.project == project, staged_blobs.c.digest.in_(wanted)
    )
    return {row.digest: row.size for row in conn.execute(owned.union(staged))}


def differences(conn: Connection, newer: int, older: int, after: str, limit: int) -> Sequence[Change]:
    """Up to limit + 1 paths behind `after` that differ, in the order of paths."""
    a = select(entries).where(entries.c.container == older, entries.c.path > after).subquery("a")
    b = select(entries).where(entries.c.container == newer, entries.c.path > after).subquery("b")
    path = func.coalesce(a.c.path, b.c.path)
    query = (
        select(a, b)
        .select_from(a.join(b, a.c.path == b.c.path, full=True))
        .where(
            or_(
                a.c.path.is_(None),
                b.c.path.is_(None),
                and_(
                    a.c.path.is_not(None),
                    or_(a.c.digest != b.c.digest, a.c.kind != b.c.kind, a.c.target != b.c.target),
                ),
            )
        )
        .order_by(path)
        .limit(limit + 1)
    )
    changes = []
    for row in conn.execute(query):
        before = _from(tuple(row)[: len(a.c)]) if row[1] is not None else None
        after_entry = _from(tuple(row)[len(a.c) :]) if row[len(a.c) + 1] is not None else None
        changes.append(Change((after_entry or before).path, before, after_entry))
    return changes


def drop_unowned(conn: Connection, project: str, digests: Collection[str]) -> None:
    """Forgets the containers among the digests that the project neither owns nor has staged any more."""
    unowned = (
        ~exists().where(project_blobs.c.project == project, project_blobs.c.digest == containers.c.digest),
        ~exists().where(staged_blobs.c.project == project, staged_blobs.c.digest == containers.c.digest),
    )
    doomed = (
        select(containers.c.id)
        .where(containers.c.project == project, containers.c.digest == any_text(digests), *unowned)
        .order_by(containers.c.digest, containers.c.kind)
        .with_for_update()
    )
    if held := list(conn.scalars(doomed)):
        # Asked again, by a statement that sees what was committed before the locks: another attempt may have staged
        # and sealed the same meanwhile.
        ids = list(conn.scalars(select(containers.c.id).where(containers.c.id.in_(held), *unowned)))
        conn.execute(delete(entries).where(entries.c.container.in_(ids)))
        conn.execute(delete(containers).where(containers.c.id.in_(ids)))


def _entry(row: Row) -> Entry:
    return Entry(row.path, Kind(row.kind), row.size, row.digest, row.target)


def _from(values: tuple) -> Entry:
    _, path, kind, size, digest, target = values
    return Entry(path, Kind(kind), size, digest, target)
