"""What projects store, and what they may."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, union
from sqlalchemy.dialects.postgresql import insert

from animus_catalog.store.tables import project_blobs, staged_blobs, storage_quotas, uploads


def set_limit(conn: Connection, project: str, stored_bytes: int | None, revision: int) -> None:
    """An older revision than the one that is known changes nothing."""
    statement = insert(storage_quotas).values(project=project, stored_bytes=stored_bytes, revision=revision)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["project"],
            set_={"stored_bytes": stored_bytes, "revision": revision},
            where=storage_quotas.c.revision < revision,
        )
    )


def limit(conn: Connection, project: str) -> int | None:
    return conn.scalar(select(storage_quotas.c.stored_bytes).where(storage_quotas.c.project == project))


def stored(conn: Connection, project: str) -> int:
    """Bytes of the blobs that the project owns or that its attempts have staged, each blob once, and of what is kept of
    its interrupted uploads."""
    owned, staged = project_blobs, staged_blobs
    both = union(*(select(t.c.digest, t.c.size).where(t.c.project == project) for t in (owned, staged))).subquery()
    whole = select(func.coalesce(func.sum(both.c.size), 0)).scalar_subquery()
    kept = select(func.coalesce(func.sum(uploads.c.kept), 0)).where(uploads.c.project == project).scalar_subquery()
    return int(conn.scalar(select(whole + kept)) or 0)
