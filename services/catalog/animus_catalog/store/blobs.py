"""Who owns which digest, what attempts have staged, and what is kept of interrupted uploads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Connection, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from animus_catalog.domain.blobs import KeptUpload, Scope, Usage
from animus_catalog.store.sql import any_text, insert_new
from animus_catalog.store.tables import ended_attempts, project_blobs, staged_blobs, uploads


def size_owned(conn: Connection, project: str, digest: str) -> int | None:
    """Bytes of the blob; None when the project does not own it."""
    return conn.scalar(
        select(project_blobs.c.size).where(project_blobs.c.project == project, project_blobs.c.digest == digest)
    )


def sizes_owned(conn: Connection, project: str, digests: Collection[str]) -> Mapping[str, int]:
    """Bytes of each of the digests that the project owns."""
    query = select(project_blobs.c.digest, project_blobs.c.size).where(
        project_blobs.c.project == project, project_blobs.c.digest == any_text(digests)
    )
    return {row.digest: row.size for row in conn.execute(query)}


def size_readable(conn: Connection, project: str, digest: str) -> int | None:
    """Bytes of the blob when the project owns it or an attempt of the project has staged it.

    An attempt may read what its predecessor wrote before the predecessor's commit event has reached the catalog.
    """
    owned = size_owned(conn, project, digest)
    if owned is not None:
        return owned
    return conn.scalar(
        select(staged_blobs.c.size).where(staged_blobs.c.project == project, staged_blobs.c.digest == digest).limit(1)
    )


def own(conn: Connection, project: str, digest: str, size: int, now: datetime) -> None:
    """Idempotent."""
    values = {"project": project, "digest": digest, "size": size, "create_time": now}
    insert_new(conn, project_blobs, values)


def own_all(conn: Connection, project: str, sizes: Mapping[str, int], now: datetime) -> None:
    """As `own`, with one statement."""
    rows = [{"project": project, "digest": d, "size": size, "create_time": now} for d, size in sorted(sizes.items())]
    conn.execute(upsert(project_blobs).on_conflict_do_nothing(), rows)


def size_staged(conn: Connection, scope: Scope, digest: str) -> int | None:
    """Bytes of the blob when this very attempt has staged it."""
    return conn.scalar(
        select(staged_blobs.c.size).where(
            staged_blobs.c.project == scope.project,
            staged_blobs.c.attempt == scope.attempt,
            staged_blobs.c.digest == digest,
        )
    )


def sizes_staged(conn: Connection, scope: Scope, digests: Collection[str]) -> Mapping[str, int]:
    query = select(staged_blobs.c.digest, staged_blobs.c.size).where(
        staged_blobs.c.project == scope.project,
        staged_blobs.c.attempt == scope.attempt,
        staged_blobs.c.digest == any_text(digests),
    )
    return {row.digest: row.size for row in conn.execute(query)}


def usage(conn: Connection, scope: Scope, digest: str) -> Usage:
    """What the attempt has on our disks beside the blob `digest`: what it staged, and what is kept of broken uploads."""
    mine = staged_blobs.c.project == scope.project, staged_blobs.c.attempt == scope.attempt
    staged = select(staged_blobs.c.size).where(*mine, staged_blobs.c.digest != digest)
    kept = select(uploads.c.kept).where(
        uploads.c.project == scope.project,
        uploads.c.attempt == scope.attempt,
        uploads.c.digest != digest,
        # Kept by a call that ended after another had written the blob.
        ~exists().where(*mine, staged_blobs.c.digest == uploads.c.digest),
    )
    each = staged.union_all(kept).subquery()
    count, total = conn.execute(select(func.count(), func.coalesce(func.sum(each.c.size), 0)).select_from(each)).one()
    return Usage(int(count), int(total))


def lock_attempt(conn: Connection, attempt: str) -> None:
    """Until the transaction ends, nobody else stages for the attempt, commits or sweeps it."""
    conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("attempt:" + attempt, 0))))


def stage(conn: Connection, scope: Scope, digest: str, size: int, now: datetime) -> None:
    """Idempotent."""
    values = {
        "project": scope.project, "attempt": scope.attempt, "digest": digest, "size": size, "create_time": now,
    }  # fmt: skip
    insert_new(conn, staged_blobs, values)


def has_ended(conn: Connection, attempt: str) -> bool:
    return bool(conn.scalar(select(exists().where(ended_attempts.c.attempt == attempt))))


def end(conn: Connection, attempt: str, committed: bool, now: datetime) -> bool:
    """Returns False when the attempt's end was known."""
    values = {"attempt": attempt, "committed": committed, "end_time": now}
    return insert_new(conn, ended_attempts, values)


def digests_staged(conn: Connection, scope: Scope) -> list[str]:
    return list(
        conn.scalars(
            select(staged_blobs.c.digest).where(
                staged_blobs.c.project == scope.project, staged_blobs.c.attempt == scope.attempt
            )
        )
    )


def own_staged(conn: Connection, scope: Scope, now: datetime) -> None:
    """Makes all that the attempt has staged the project's."""
    mine = select(
        staged_blobs.c.project, staged_blobs.c.digest, staged_blobs.c.size, literal(now).label("create_time")
    ).where(staged_blobs.c.project == scope.project, staged_blobs.c.attempt == scope.attempt)
    conn.execute(
        upsert(project_blobs).from_select(["project", "digest", "size", "create_time"], mine).on_conflict_do_nothing()
    )
    drop_staged(conn, scope)


def drop_staged(conn: Connection, scope: Scope) -> None:
    conn.execute(
        delete(staged_blobs).where(staged_blobs.c.project == scope.project, staged_blobs.c.attempt == scope.attempt)
    )


def kept_upload(conn: Connection, scope: Scope, digest: str) -> KeptUpload | None:
    row = conn.execute(select(uploads).where(_upload(scope, digest))).one_or_none()
    return KeptUpload(row.digest, row.size, row.kept, row.staging) if row is not None else None


def keep_upload(conn: Connection, scope: Scope, kept: KeptUpload, now: datetime) -> str | None:
    """Remembers an interrupted upload where it got further than the one that is kept.

    Returns the name of the staging file that is not needed any more: the other one's, or this one's; None when there
    was only this one.
    """
    row = conn.execute(
        select(uploads.c.staging, uploads.c.kept, uploads.c.size).where(_upload(scope, kept.digest)).with_for_update()
    ).one_or_none()
    values = {"size": kept.size, "kept": kept.offset, "staging": kept.staging, "update_time": now}
    if row is None:
        key = {"project": scope.project, "attempt": scope.attempt, "digest": kept.digest}
        return None if insert_new(conn, uploads, {**key, **values}) else kept.staging
    if row.staging == kept.staging:
        conn.execute(update(uploads).where(_upload(scope, kept.digest)).values(values))
        return None
    if row.size == kept.size and row.kept >= kept.offset:
        return kept.staging
    conn.execute(update(uploads).where(_upload(scope, kept.digest)).values(values))
    return row.staging


def drop_upload(conn: Connection, scope: Scope, digest: str) -> str | None:
    """Forgets an upload. Returns the name of its staging file."""
    return conn.scalar(delete(uploads).where(_upload(scope, digest)).returning(uploads.c.staging))


def drop_uploads_of(conn: Connection, scope: Scope) -> list[str]:
    """Forgets all uploads of an attempt. Returns the names of their staging files."""
    return list(
        conn.scalars(
            delete(uploads)
            .where(uploads.c.project == scope.project, uploads.c.attempt == scope.attempt)
            .returning(uploads.c.staging)
        )
    )


def drop_uploads_before(conn: Connection, moment: datetime) -> list[str]:
    """Forgets all uploads that nobody went on with. Returns the names of their staging files."""
    return list(conn.scalars(delete(uploads).where(uploads.c.update_time < moment).returning(uploads.c.staging)))


def _upload(scope: Scope, digest: str):
    return (uploads.c.project == scope.project) & (uploads.c.attempt == scope.attempt) & (uploads.c.digest == digest)
