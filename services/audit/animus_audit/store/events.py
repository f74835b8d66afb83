"""Reading the log. Every function takes a connection and returns domain objects, in index order."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from .tables import events, log_head, payloads, sources

# An answer must stay below gRPC's default limit of 4 MiB, whatever its payloads weigh.
MAX_PAGE_BYTES = 3 << 20
# What an event weighs there beside its envelope and payload.
_OTHER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Filter:
    """Holds when every given part holds."""

    types: tuple[str, ...] = ()
    resource: str | None = None
    project: str | None = None
    source: str | None = None
    actor: str | None = None
    request_id: str | None = None
    min_time: datetime | None = None
    max_time: datetime | None = None

    def holds(self, event: "StoredEvent") -> bool:
        """As `_conditions` has the database decide it."""
        return (
            (not self.types or any(_is_or_begins(event.event_type, one, ".") for one in self.types))
            and (not self.resource or _is_or_begins(event.resource, self.resource, "/"))
            and (not self.project or event.project == self.project)
            and (not self.source or event.source == self.source)
            and (not self.actor or event.actor == self.actor)
            and (not self.request_id or event.request_id == self.request_id)
            and (not self.min_time or event.event_time >= self.min_time)
            and (not self.max_time or event.event_time < self.max_time)
        )


@dataclass(frozen=True, slots=True)
class StoredEvent:
    index: int
    envelope: bytes
    # None once erased.
    payload: bytes | None
    salt: bytes | None
    source: str
    seq: int
    event_type: str
    event_time: datetime
    project: str | None
    resource: str
    actor: str
    request_id: str | None
    append_time: datetime

    @property
    def weight(self) -> int:
        """Bytes in an answer, as `_cut` counts them."""
        return len(self.envelope) + len(self.payload or b"") + _OTHER_BYTES


@dataclass(frozen=True, slots=True)
class SourceState:
    source: str
    generation: str
    last_seq: int
    last_append_time: datetime


def log_size(conn: Connection) -> int:
    return conn.execute(select(log_head.c.size)).scalar_one()


def get(conn: Connection, index: int) -> StoredEvent | None:
    row = conn.execute(_events().where(events.c.index == index)).one_or_none()
    return StoredEvent(*row) if row else None


@dataclass(frozen=True, slots=True)
class Page:
    """more: whether the limit or the weight cut it; then more events may follow the last."""

    events: list[StoredEvent]
    more: bool


def page(
    conn: Connection, where: Filter, *, after: int | None, below: int, limit: int, descending: bool = False
) -> Page:
    """Up to limit events below an index, behind (in the order asked) index after; fewer where they weigh too much."""
    query = _events().where(events.c.index < below, *_conditions(where))
    if after is not None:
        query = query.where(events.c.index < after if descending else events.c.index > after)
    return _cut(conn, query, limit, descending)


def scan(conn: Connection, where: Filter, *, start: int, end: int, limit: int) -> Page:
    """Up to limit events from start on and below end; fewer where they weigh too much."""
    query = _events().where(events.c.index >= start, events.c.index < end, *_conditions(where))
    return _cut(conn, query, limit, descending=False)


def list_sources(conn: Connection) -> list[SourceState]:
    columns = (sources.c.source, sources.c.generation, sources.c.last_seq, sources.c.last_append_time)
    return [SourceState(*row) for row in conn.execute(select(*columns).order_by(sources.c.source, sources.c.id))]


def _events() -> Select:
    return select(
        events.c.index,
        events.c.envelope,
        payloads.c.payload,
        payloads.c.salt,
        sources.c.source,
        events.c.seq,
        events.c.event_type,
        events.c.event_time,
        events.c.project,
        events.c.resource,
        events.c.actor,
        events.c.request_id,
        events.c.append_time,
    ).select_from(  # fmt: skip
        events.join(sources, sources.c.id == events.c.source_id).outerjoin(payloads, payloads.c.index == events.c.index)
    )


def _cut(conn: Connection, query: Select, limit: int, descending: bool) -> Page:
    """Leaves out what lies beyond MAX_PAGE_BYTES, before the bytes leave the database. The first row always stays."""

    def order(index: ColumnElement) -> ColumnElement:
        return index.desc() if descending else index.asc()

    rows = query.order_by(order(events.c.index)).limit(limit).subquery()
    weight = func.octet_length(rows.c.envelope) + func.coalesce(func.octet_length(rows.c.payload), 0) + _OTHER_BYTES
    over = {"order_by": order(rows.c.index)}
    running = select(
        rows,
        func.sum(weight).over(**over).label("running"),
        func.row_number().over(**over).label("nth"),
        func.count().over().label("total"),
    ).subquery()
    kept = select(running).where(or_(running.c.running <= MAX_PAGE_BYTES, running.c.nth == 1))
    found = conn.execute(kept.order_by(order(running.c.index))).all()
    if not found:
        return Page([], more=False)
    total = found[0].total
    return Page([StoredEvent(*row[:-3]) for row in found], more=total == limit or len(found) < total)


def _conditions(where: Filter) -> Iterable[ColumnElement[bool]]:
    if where.types:
        yield or_(*(_exact_or_prefix(events.c.event_type, t, ".") for t in where.types))
    if where.resource:
        yield _exact_or_prefix(events.c.resource, where.resource, "/")
    if where.project:
        yield events.c.project == where.project
    if where.source:
        yield sources.c.source == where.source
    if where.actor:
        yield events.c.actor == where.actor
    if where.request_id:
        yield events.c.request_id == where.request_id
    if where.min_time:
        yield events.c.event_time >= where.min_time
    if where.max_time:
        yield events.c.event_time < where.max_time


def _is_or_begins(text: str, value: str, end: str) -> bool:
    return text.startswith(value) if value.endswith(end) else text == value


def _exact_or_prefix(column, value: str, end: str) -> ColumnElement[bool]:
    return column.startswith(value, autoescape=True) if value.endswith(end) else column == value
