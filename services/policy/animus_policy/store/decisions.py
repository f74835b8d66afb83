"""Snapshots and decisions in SQL: rows are added and never changed."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, Row, Select, select
from sqlalchemy.dialects.postgresql import insert

from ..domain.decisions import Decision, Effect, Point
from ..domain.snapshots import PolicySnapshot
from .tables import decisions, policy_snapshots


def record_snapshot(conn: Connection, snapshot: PolicySnapshot, now: datetime) -> None:
    values = {
        "name": snapshot.name,
        "project": snapshot.project,
        "digest": snapshot.digest,
        "document": snapshot.document,
        "create_time": now,
    }
    conn.execute(insert(policy_snapshots).values(values).on_conflict_do_nothing())


def find_snapshot(conn: Connection, snapshot: PolicySnapshot) -> PolicySnapshot:
    """The same with its create_time, where it was decided under."""
    stored = get_snapshot(conn, snapshot.name)
    return replace(snapshot, create_time=stored.create_time) if stored else snapshot


def get_snapshot(conn: Connection, name: str) -> PolicySnapshot | None:
    row = conn.execute(select(policy_snapshots).where(policy_snapshots.c.name == name)).one_or_none()
    return PolicySnapshot(row.project, row.document, row.digest, row.create_time) if row else None


def add(conn: Connection, decision: Decision) -> None:
    conn.execute(
        insert(decisions).values(
            name=decision.name,
            project=decision.project,
            point=decision.point.value,
            effect=decision.effect.value,
            document=decision.document,
            digest=decision.digest,
            snapshot_digest=decision.snapshot_digest,
            message=decision.message,
            create_time=decision.create_time,
        )
    )


def get(conn: Connection, name: str) -> Decision | None:
    row = conn.execute(select(decisions).where(decisions.c.name == name)).one_or_none()
    return from_row(row) if row else None


def listing(project: str, effect: Effect | None) -> Select:
    query = select(decisions).where(decisions.c.project == project)
    return query.where(decisions.c.effect == effect.value) if effect else query


def from_row(row: Row) -> Decision:
    return Decision(
        row.name, row.project, Point(row.point), Effect(row.effect), row.document, row.digest, row.snapshot_digest,
        row.message, row.create_time,
    )  # fmt: skip
