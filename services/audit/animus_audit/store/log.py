"""The writer's SQL: the head row, the sources' positions, and the leaves. Every function takes an open transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, text, tuple_, update

from ..domain.admission import Position
from ..domain.envelope import Leaf
from ..domain.merkle import Frontier
from .tables import events, log_head, sources

CHANNEL = "animus_audit_log"

# Binary: what is mostly bytea would otherwise travel as hex and be read back.
_COPY_EVENTS = (
    "COPY events (index, source_id, seq, leaf_hash, envelope, event_type, event_time, project, resource, actor, "
    "request_id, append_time) FROM STDIN (FORMAT BINARY)"
)
_EVENT_TYPES = (
    "int8", "int4", "int8", "bytea", "bytea", "text", "timestamptz", "text", "text", "text", "text", "timestamptz",
)  # fmt: skip
_COPY_PAYLOADS = "COPY payloads (index, payload, salt) FROM STDIN (FORMAT BINARY)"
_PAYLOAD_TYPES = ("int8", "bytea", "bytea")


_LOCK_HEAD = select(log_head.c.size, log_head.c.frontier).with_for_update()
_READ_SIZE = select(log_head.c.size)
# One statement, since each round trip makes the whole log wait.
_MOVE = text("""
WITH moved_sources AS (
    UPDATE sources SET last_seq = v.seq, last_append_time = :now
    FROM unnest(CAST(:ids AS integer[]), CAST(:seqs AS bigint[])) AS v (id, seq)
    WHERE sources.id = v.id RETURNING 1
), moved_head AS (
    UPDATE log_head SET size = :size, root = :root, frontier = :frontier, writer = :writer
    WHERE size = :old_size RETURNING 1
)
SELECT (SELECT count(*) FROM moved_head) AS heads, (SELECT count(*) FROM moved_sources) AS sources,
       pg_notify(:channel, CAST(:size AS text))
""")


@dataclass(frozen=True, slots=True)
class SourceRow:
    id: int
    position: Position


def lock_head(conn: Connection) -> Frontier:
    """Locks the head row: from here to commit this transaction is the only writer of the log."""
    row = conn.execute(_LOCK_HEAD).one()
    return Frontier.from_bytes(row.size, row.frontier)


def read_sources(conn: Connection, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], SourceRow]:
    rows = conn.execute(select(sources).where(tuple_(sources.c.source, sources.c.generation).in_(list(keys))))
    return {
        (r.source, r.generation): SourceRow(r.id, Position(r.source, r.generation, r.last_seq, r.superseded))
        for r in rows
    }


def add_source(conn: Connection, source: str, generation: str, now: datetime) -> SourceRow:
    """A generation that was never seen: a database was created or restored. Older ones become history."""
    conn.execute(update(sources).where(sources.c.source == source).values(superseded=True))
    row_id = conn.execute(
        insert(sources)
        .values(source=source, generation=generation, last_seq=0, last_append_time=now)
        .returning(sources.c.id)
    ).scalar_one()
    return SourceRow(row_id, Position(source, generation))


def leaf_hashes(conn: Connection, source_id: int, first: int, last: int) -> list[bytes]:
    """Of one source, for the seqs from first to last, in order."""
    return list(
        conn.execute(
            select(events.c.leaf_hash)
            .where(events.c.source_id == source_id, events.c.seq.between(first, last))
            .order_by(events.c.seq)
        ).scalars()
    )


def copy_leaves(conn: Connection, first_index: int, leaves: Sequence[tuple[int, Leaf]], now: datetime) -> None:
    """Writes leaves, each with its source's row id, at dense indices from first_index on."""
    cursor = conn.connection.cursor()
    with cursor.copy(_COPY_EVENTS) as copy:
        copy.set_types(_EVENT_TYPES)
        for index, (source_id, leaf) in enumerate(leaves, first_index):
            copy.write_row(
                (
                    index,
                    source_id,
                    leaf.seq,
                    leaf.leaf_hash,
                    leaf.envelope,
                    leaf.event_type,
                    leaf.event_time,
                    leaf.project,
                    leaf.resource,
                    leaf.actor,
                    leaf.request_id,
                    now,
                )  # fmt: skip
            )
    with cursor.copy(_COPY_PAYLOADS) as copy:
        copy.set_types(_PAYLOAD_TYPES)
        for index, (_, leaf) in enumerate(leaves, first_index):
            copy.write_row((index, leaf.payload, leaf.salt))


def move(
    conn: Connection, old_size: int, frontier: Frontier, writer: str, last_seqs: dict[int, int], now: datetime
) -> None:
    """Moves the head and the sources (row id → last seq) and tells the followers, who hear it at the commit."""
    moved = conn.execute(
        _MOVE,
        {
            "old_size": old_size,
            "size": frontier.size,
            "root": frontier.root(),
            "frontier": frontier.to_bytes(),
            "writer": writer,
            "ids": list(last_seqs),
            "seqs": list(last_seqs.values()),
            "now": now,
            "channel": CHANNEL,
        },
    ).one()
    if (moved.heads, moved.sources) != (1, len(last_seqs)):
        raise RuntimeError("the head of the log moved under its lock")


def read_size(conn: Connection) -> int:
    return conn.execute(_READ_SIZE).scalar_one()
