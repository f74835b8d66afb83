"""The gap checker: reads the whole log and tells everything that does not hold together.

    python -m animus_audit verify

Dense indices from 0; each source's seqs dense from 1; each leaf hash that of its envelope; each envelope that of its
row and its payload; the root over all leaves that of the head. It trusts nothing but the envelopes' bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, select

from .domain.envelope import BadEnvelope, check
from .domain.merkle import Frontier, leaf_hash
from .store.tables import events, log_head, payloads, sources

_BATCH = 2000
# A broken log has one cause and many symptoms.
_MOST_PROBLEMS = 100


@dataclass
class Report:
    """problems is empty for a good log. erased: events whose payload is gone."""

    size: int = 0
    root: str = ""
    sources: dict[str, int] = field(default_factory=dict)
    erased: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, problem: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def verify(engine: Engine) -> Report:
    """Reads in one snapshot, so that a log that grows meanwhile is still checked as of one moment."""
    report = Report()
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn, conn.begin():
        _verify(conn, report)
    return report


def _verify(conn: Connection, report: Report) -> None:
    head = conn.execute(select(log_head)).one_or_none()
    if head is None:
        report.add("the log has no head row")
        return
    known = {row.id: row for row in conn.execute(select(sources))}
    seen: dict[int, int] = dict.fromkeys(known, 0)
    frontier = Frontier()
    for row in _rows(conn):
        if row.index != frontier.size:
            report.add(f"index {frontier.size} is followed by {row.index}")
            # Count on from here: one gap is one problem, and the root will tell it again.
            frontier = Frontier(row.index, [bytes(32)] * row.index.bit_count())
        source = known.get(row.source_id)
        if source is None:
            report.add(f"index {row.index}: unknown source {row.source_id}")
        else:
            _check_source(row, source, seen, report)
        computed = leaf_hash(row.envelope)
        if computed != row.leaf_hash:
            report.add(f"index {row.index}: the leaf hash is not that of the envelope")
        frontier.append(computed)
    report.size = frontier.size
    report.root = frontier.root().hex()
    if frontier.size != head.size:
        report.add(f"the log holds {frontier.size} events, its head says {head.size}")
    if frontier.root() != head.root:
        report.add("the root over all leaves is not the head's")
    if frontier.to_bytes() != head.frontier:
        report.add("the frontier over all leaves is not the head's")
    for source_id, last_seq in seen.items():
        source = known[source_id]
        report.sources[f"{source.source}/{source.generation}"] = last_seq
        if last_seq != source.last_seq:
            report.add(f"{source.source}/{source.generation} ends at seq {last_seq}, its row says {source.last_seq}")


def _check_source(row, source, seen: dict[int, int], report: Report) -> None:
    where = f"index {row.index}, {source.source}/{source.generation}"
    if row.seq != seen[row.source_id] + 1:
        report.add(f"{where}: seq {seen[row.source_id]} is followed by {row.seq}")
    seen[row.source_id] = row.seq
    if row.payload is None:
        report.erased += 1
        return
    try:
        leaf = check(source.source, source.generation, row.seq, row.envelope, row.payload, row.salt)
    except BadEnvelope as bad:
        report.add(f"{where}: the envelope {bad}")
        return
    for column in ("event_type", "event_time", "project", "resource", "actor", "request_id"):
        if getattr(leaf, column) != getattr(row, column):
            report.add(f"{where}: {column} is not the envelope's")


def _rows(conn: Connection) -> Iterator:
    query = (
        select(events, payloads.c.payload, payloads.c.salt)
        .select_from(events.outerjoin(payloads, payloads.c.index == events.c.index))
        .order_by(events.c.index)
    )
    yield from conn.execution_options(yield_per=_BATCH).execute(query)
