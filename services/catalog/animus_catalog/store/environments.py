"""Environment locks. The environments themselves are in entries.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import distinct_on

from animus.type.v1.list_order_pb2 import ListOrder
from animus_catalog.domain.environments import EnvironmentLock, Package
from animus_catalog.domain.errors import ResourceNotFound
from animus_catalog.store.sql import insert_new
from animus_catalog.store.tables import environment_locks as locks
from animus_kit.server.paging import Page

ANY_ENVIRONMENT = "-"


def get(conn: Connection, project: str, environment: str, id: str) -> EnvironmentLock:
    """Raises ResourceNotFound."""
    row = conn.execute(
        select(locks).where(locks.c.project == project, locks.c.environment == environment, locks.c.id == id)
    ).one_or_none()
    if row is None:
        raise ResourceNotFound("EnvironmentLock", f"projects/{project}/environments/{environment}/locks/{id}")
    return _lock(row)


def newest_by_image(conn: Connection, project: str, images: Collection[str]) -> dict[str, EnvironmentLock]:
    """The newest lock of each of the images that has one; of two at the same time the one with the greater name."""
    query = (
        select(locks)
        .ext(distinct_on(locks.c.image_digest))
        .where(locks.c.project == project, locks.c.image_digest.in_(sorted(images)))
        .order_by(locks.c.image_digest, locks.c.create_time.desc(), locks.c.id.desc(), locks.c.environment.desc())
    )
    return {row.image_digest: _lock(row) for row in conn.execute(query)}


def page(conn: Connection, project: str, environment: str, request: Any) -> tuple[Sequence[EnvironmentLock], str]:
    """The page that a List request asks for, and the next one's token. Environment "-" stands for every one.

    The locks come without document and packages, of which five hundred would be gigabytes.
    """
    listed = [column for column in locks.c if column.name not in ("document", "packages")]
    query = select(*listed).where(locks.c.project == project)
    if environment != ANY_ENVIRONMENT:
        query = query.where(locks.c.environment == environment)
    if request.image_digest:
        query = query.where(locks.c.image_digest == request.image_digest)
    asked = Page.parse(request)
    by_name = asked.order == ListOrder.LIST_ORDER_NAME_ASC
    ascending = by_name or asked.order == ListOrder.LIST_ORDER_CREATE_TIME_ASC
    # One lock may stand under several environments, so a name is both ids.
    keys = [(locks.c.environment, ascending), (locks.c.id, ascending)]
    rows, token = asked.fetch_by(conn, query, keys if by_name else [(locks.c.create_time, ascending), *keys])
    return [_listed(row) for row in rows], token


def create(conn: Connection, lock: EnvironmentLock) -> bool:
    """Returns False, and changes nothing, when the environment has that lock."""
    values = {
        "project": lock.project,
        "environment": lock.environment,
        "id": lock.id,
        "document": lock.document,
        "lock_digest": lock.lock_digest,
        "image_digest": lock.image_digest,
        "platform": lock.platform,
        "packages": [
            {"kind": p.kind, "name": p.name, "version": p.version, **({"digest": p.digest} if p.digest else {})}
            for p in lock.packages
        ],
        "size": lock.size,
        "creator": lock.creator,
        "create_time": lock.create_time,
    }
    return insert_new(conn, locks, values)


def _lock(row: Row) -> EnvironmentLock:
    packages = [Package(**package) for package in row.packages]
    return replace(_listed(row), document=bytes(row.document), packages=packages)


def _listed(row: Row) -> EnvironmentLock:
    return EnvironmentLock(
        project=row.project,
        environment=row.environment,
        document=b"",
        lock_digest=row.lock_digest,
        image_digest=row.image_digest,
        platform=row.platform,
        packages=(),
        size=row.size,
        creator=row.creator,
        create_time=row.create_time,
    )
