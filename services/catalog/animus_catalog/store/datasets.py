"""Dataset versions. The datasets themselves are in entries.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_

from animus_catalog.domain.datasets import Column, DatasetVersion, Scalar, Statistic
from animus_catalog.domain.errors import ResourceNotFound
from animus_catalog.store.tables import dataset_versions as versions
from animus_kit.server.paging import Page, filtered


def get(conn: Connection, project: str, dataset: str, id: str) -> DatasetVersion:
    """Raises ResourceNotFound."""
    row = conn.execute(
        select(versions).where(versions.c.project == project, versions.c.dataset == dataset, versions.c.id == id)
    ).one_or_none()
    if row is None:
        raise ResourceNotFound("DatasetVersion", f"projects/{project}/datasets/{dataset}/versions/{id}")
    return _version(row)


def among(conn: Connection, project: str, keys: Collection[tuple[str, str]]) -> dict[str, DatasetVersion]:
    """Those of the (dataset, version) pairs that exist, by full name."""
    if not keys:
        return {}
    query = select(versions).where(
        versions.c.project == project, tuple_(versions.c.dataset, versions.c.id).in_(sorted(keys))
    )
    found = [_version(row) for row in conn.execute(query)]
    return {version.name: version for version in found}


def page(conn: Connection, project: str, dataset: str, request: Any) -> tuple[Sequence[DatasetVersion], str]:
    """The page that a List request asks for, and the next one's token.

    The versions come without schema and statistics, of which five hundred would be gigabytes.
    """
    listed = [column for column in versions.c if column.name not in ("schema", "statistics")]
    query = select(*listed).where(versions.c.project == project, versions.c.dataset == dataset)
    query = filtered(query, request, create_time=versions.c.create_time, labels=versions.c.labels)
    rows, token = Page.parse(request).fetch(conn, query, versions.c.create_time, versions.c.id)
    return [_listed(row) for row in rows], token


def create(conn: Connection, version: DatasetVersion) -> None:
    """The dataset's row is locked by the caller, so the number is free."""
    conn.execute(
        insert(versions).values(
            project=version.project,
            dataset=version.dataset,
            id=version.id,
            number=version.number,
            manifest_digest=version.manifest_digest,
            file_count=version.file_count,
            size=version.size,
            schema=[{"name": c.name, "type": c.type, "nullable": c.nullable} for c in version.schema],
            statistics=[{"name": s.name, **_tagged(s.value)} for s in version.statistics],
            source=version.source,
            parents=list(version.parents),
            description=version.description,
            labels=dict(version.labels),
            creator=version.creator,
            create_time=version.create_time,
        )
    )


def _tagged(value: Scalar) -> dict[str, Any]:
    # JSON has one kind of number; the tag keeps 1 and 1.0 apart, and text keeps 2^53 + 1.
    if type(value) is int:
        return {"int64": str(value)}
    return {{str: "string", float: "double", bool: "bool"}[type(value)]: value}


def _untagged(item: dict[str, Any]) -> Scalar:
    if "int64" in item:
        return int(item["int64"])
    if "double" in item:
        return float(item["double"])
    return item["string"] if "string" in item else item["bool"]


def _version(row: Row) -> DatasetVersion:
    return replace(
        _listed(row),
        schema=[Column(**column) for column in row.schema],
        statistics=[Statistic(item["name"], _untagged(item)) for item in row.statistics],
    )


def _listed(row: Row) -> DatasetVersion:
    return DatasetVersion(
        project=row.project,
        dataset=row.dataset,
        number=row.number,
        manifest_digest=row.manifest_digest,
        file_count=row.file_count,
        size=row.size,
        schema=(),
        statistics=(),
        source=row.source,
        parents=row.parents,
        description=row.description,
        labels=row.labels,
        creator=row.creator,
        create_time=row.create_time,
    )
