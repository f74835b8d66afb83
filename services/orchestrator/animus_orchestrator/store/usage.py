"""What projects use: the sum of what leases took and gave back, written by the statements that make and end them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.store.schema import among, usage_changes

_c = usage_changes.c


@dataclass(frozen=True, slots=True)
class Change:
    """One lease that was made (`attempts` 1) or has ended (-1)."""

    project: str
    cpu_millis: int
    memory_bytes: int
    gpus: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Used:
    amount: Amount = Amount()
    attempts: int = 0


def sums(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Rows of the table, one for each project: rows of several transactions never wait for each other."""
    found: dict[str, list[int]] = {}
    for one in changes:
        total = found.setdefault(one.project, [0, 0, 0, 0])
        for i, size in enumerate((one.cpu_millis, one.memory_bytes, one.gpus, 1)):
            total[i] += one.attempts * size
    return [
        {"project": project, "cpu_millis": cpu, "memory_bytes": memory, "gpus": gpus, "attempts": attempts}
        for project, (cpu, memory, gpus, attempts) in found.items()
        if cpu or memory or gpus or attempts
    ]


_USED = (
    sa.select(
        _c.project, sa.func.sum(_c.cpu_millis), sa.func.sum(_c.memory_bytes), sa.func.sum(_c.gpus),
        sa.func.sum(_c.attempts),
    )
    .where(_c.project == among("projects", sa.Text))
    .group_by(_c.project)
)  # fmt: skip


def used(conn: Connection, projects: Iterable[str]) -> dict[str, Used]:
    """Of those that use, or used lately, anything."""
    rows = conn.execute(_USED, {"projects": list(projects)})
    return {
        project: Used(Amount(int(cpu), int(memory), int(gpus)), int(attempts))
        for project, cpu, memory, gpus, attempts in rows
    }


_FOLD = sa.text("""
    WITH taken AS (
        DELETE FROM usage_changes
        WHERE uid IN (SELECT uid FROM usage_changes ORDER BY uid FOR UPDATE SKIP LOCKED LIMIT :most)
        RETURNING project, cpu_millis, memory_bytes, gpus, attempts
    )
    INSERT INTO usage_changes (project, cpu_millis, memory_bytes, gpus, attempts)
    SELECT project, sum(cpu_millis), sum(memory_bytes), sum(gpus), sum(attempts)
    FROM taken
    GROUP BY project
    HAVING sum(attempts) <> 0 OR sum(cpu_millis) <> 0 OR sum(memory_bytes) <> 0 OR sum(gpus) <> 0
""")
_WORTH_FOLDING = sa.text("SELECT count(*) > 2 * count(DISTINCT project) + 32 FROM usage_changes")


def fold(conn: Connection, most: int = 20_000) -> bool:
    """Puts the rows of each project together. Whoever reads meanwhile sees all rows of before, or the sum."""
    if not conn.execute(_WORTH_FOLDING).scalar_one():
        return False
    conn.execute(_FOLD, {"most": most})
    return True
