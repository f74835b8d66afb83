"""Logs and metric points of attempts: bounded, by byte offset and by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_orchestrator.store.graph import notify
from animus_orchestrator.store.listen import LOGS
from animus_orchestrator.store.schema import attempts, log_chunks, metric_points

MAX_CHUNK_BYTES = 262_144
"""As the protocol bounds it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    offset: int
    data: bytes
    stderr: bool
    truncated: bool


@dataclass
class Tally:
    """How far an attempt's log and metrics have come, within one transaction."""

    step_uid: int
    number: int
    log_size: int
    metric_count: int
    truncated: bool = False
    log_grew: bool = False
    points_added: bool = False

    @property
    def changed(self) -> bool:
        return self.truncated or self.log_grew or self.points_added


@dataclass(frozen=True, slots=True)
class Point:
    index: int
    name: str
    step: int
    value: float


def fit(tally: Tally, chunk: Chunk, limit: int) -> Chunk | None:
    """The part of a chunk that is new and within the limit; None when there is none.

    An agent that lost its place sends bytes again: what is known already is cut off. A chunk that begins later than
    what is known leaves a gap, which is marked and never filled.
    """
    skip = tally.log_size - chunk.offset
    if skip < 0 and not chunk.data:
        # Only says that bytes are lost; the next chunk's offset shows it.
        tally.log_size, tally.truncated = min(chunk.offset, limit), True
        return None
    if skip >= len(chunk.data):
        return None
    offset, data, truncated = chunk.offset, chunk.data, skip < 0
    if skip > 0:
        offset, data = tally.log_size, data[skip:]
    if offset >= limit:
        tally.truncated = True
        return None
    if offset + len(data) > limit:
        data = data[: limit - offset]
        tally.truncated = True
    tally.truncated = tally.truncated or truncated
    tally.log_size = offset + len(data)
    tally.log_grew = True
    return Chunk(offset, data, chunk.stderr, truncated)


def joined(chunks: Sequence[tuple[Tally, Chunk]]) -> list[tuple[Tally, Chunk]]:
    """Pieces that follow each other as one: a log sent byte by byte must not become a row for each."""
    found: list[tuple[Tally, list[Chunk]]] = []
    last: dict[int, list[Chunk]] = {}
    for tally, chunk in chunks:
        run = last.get(id(tally))
        if (
            run is not None
            and not chunk.truncated
            and chunk.stderr == run[0].stderr
            and run[-1].offset + len(run[-1].data) == chunk.offset
            and chunk.offset + len(chunk.data) - run[0].offset <= MAX_CHUNK_BYTES
        ):
            run.append(chunk)
            continue
        last[id(tally)] = run = [chunk]
        found.append((tally, run))
    return [
        (tally, Chunk(run[0].offset, b"".join(c.data for c in run), run[0].stderr, run[0].truncated))
        for tally, run in found
    ]


def insert_chunks(conn: Connection, pieces: Sequence[tuple[Tally, Chunk]]) -> None:
    chunks = joined(pieces)
    if chunks:
        conn.execute(
            sa.insert(log_chunks),
            [
                {"step_uid": t.step_uid, "number": t.number, "offset_bytes": c.offset, "data": c.data,
                 "stderr": c.stderr, "truncated": c.truncated}
                for t, c in chunks
            ],
        )  # fmt: skip


def insert_points(conn: Connection, points: Sequence[tuple[Tally, Point]]) -> None:
    if points:
        conn.execute(
            sa.insert(metric_points),
            [
                {"step_uid": t.step_uid, "number": t.number, "index": p.index, "name": p.name, "step": p.step,
                 "value": p.value}
                for t, p in points
            ],
        )  # fmt: skip


def save_tallies(conn: Connection, all_tallies: Sequence[Tally]) -> None:
    tallies = [t for t in all_tallies if t.changed]
    if not tallies:
        return
    conn.execute(
        sa.update(attempts)
        .where(attempts.c.step_uid == sa.bindparam("b_uid"), attempts.c.number == sa.bindparam("b_number"))
        .values(
            log_size=sa.bindparam("b_size"),
            log_truncated=attempts.c.log_truncated | sa.bindparam("b_truncated", type_=sa.Boolean),
            metric_count=sa.bindparam("b_metrics"),
        ),
        [
            {"b_uid": t.step_uid, "b_number": t.number, "b_size": t.log_size, "b_truncated": t.truncated,
             "b_metrics": t.metric_count}
            for t in tallies
        ],
    )  # fmt: skip
    notify(conn, LOGS, [f"{t.step_uid}/{t.number}" for t in tallies if t.log_grew])


def read(conn: Connection, step_uid: int, number: int, offset: int, max_bytes: int) -> list[Chunk]:
    """Chunks from a byte offset on, the first one cut to begin there; about `max_bytes` of them."""
    query = (
        sa.select(log_chunks)
        .where(
            log_chunks.c.step_uid == step_uid,
            log_chunks.c.number == number,
            # No chunk is longer than this, so that the index finds the first one.
            log_chunks.c.offset_bytes > offset - MAX_CHUNK_BYTES,
            log_chunks.c.offset_bytes + sa.func.length(log_chunks.c.data) > offset,
        )
        .order_by(log_chunks.c.offset_bytes)
        .limit(64)
    )
    found: list[Chunk] = []
    total = 0
    for row in conn.execute(query):
        if total >= max_bytes:
            break
        skip = max(0, offset - row.offset_bytes)
        found.append(Chunk(row.offset_bytes + skip, row.data[skip:], row.stderr, row.truncated and skip == 0))
        total += len(row.data) - skip
    return found
