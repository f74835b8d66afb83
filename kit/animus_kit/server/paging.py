"""Keyset pages (AIP-158): a token says after which row to go on, and belongs to one question.

Never an OFFSET and never a COUNT, so that the last page of a million rows costs what the first does.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, or_, tuple_

from animus.type.v1.list_order_pb2 import ListOrder
from animus_kit.errors import FieldViolation, InvalidArgument

DEFAULT_SIZE = 50
MAX_SIZE = 500
_VERSION = 1


class PageTokenInvalid(InvalidArgument):
    """The token is damaged, or comes from a call with other fields."""

    reason = "PAGE_TOKEN_INVALID"


class TimeInvalid(InvalidArgument):
    """A time before the year 1 or after the year 9999."""

    reason = "TIME_INVALID"

    def __init__(self, field: str):
        text = "is no time between the years 1 and 9999"
        super().__init__(f"{field} {text}", violations=[FieldViolation(field, self.reason, text)])


@dataclass(frozen=True)
class Page:
    """One page of one question. after: the key of the last row of the page before; empty for the first page."""

    size: int
    order: int
    question: str
    after: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, request: Any) -> Page:
        """Reads page_size, page_token and, where there is one, order_by. Raises PageTokenInvalid."""
        size = min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
        order = getattr(request, "order_by", 0) or ListOrder.LIST_ORDER_CREATE_TIME_DESC
        question = _question(request)
        return cls(size, order, question, _decode(request.page_token, question))

    def fetch(
        self, conn: Connection, query: Select[Any], create_time: ColumnElement[Any], name: ColumnElement[Any]
    ) -> tuple[list[Row[Any]], str]:
        """Runs the query in the order asked for: (rows, token of the next page or empty). Ties go by name."""
        if self.order == ListOrder.LIST_ORDER_NAME_ASC:
            return self.fetch_by(conn, query, [(name, True)])
        ascending = self.order == ListOrder.LIST_ORDER_CREATE_TIME_ASC
        return self.fetch_by(conn, query, [(create_time, ascending), (name, ascending)])

    def fetch_by(
        self, conn: Connection, query: Select[Any], keys: Sequence[tuple[ColumnElement[Any], bool]]
    ) -> tuple[list[Row[Any]], str]:
        """As fetch, ordered by (column, ascending) keys that together are unique and are selected by the query."""
        if self.after:
            if len(self.after) != len(keys) or not all(map(_fits, self.after, (column for column, _ in keys))):
                raise _invalid()
            query = query.where(_beyond(keys, self.after))
        ordered = query.order_by(*(column.asc() if ascending else column.desc() for column, ascending in keys))
        rows = list(conn.execute(ordered.limit(self.size + 1)))
        if len(rows) <= self.size:
            return rows, ""
        rows = rows[: self.size]
        last = rows[-1]._mapping
        return rows, self.token(*(last[column] for column, _ in keys))

    def token(self, *key: Any) -> str:
        """The token that goes on after the row with this key. For pages that are not read from SQL."""
        body = json.dumps([_VERSION, self.question, [_pack(value) for value in key]], separators=(",", ":"))
        return base64.urlsafe_b64encode(body.encode()).rstrip(b"=").decode()


def filtered(
    query: Select[Any],
    request: Any,
    *,
    create_time: ColumnElement[Any],
    labels: ColumnElement[Any] | None = None,
) -> Select[Any]:
    """Applies min_create_time, max_create_time and labels (a JSONB column) of a List request."""
    if (earliest := moment(request, "min_create_time")) is not None:
        query = query.where(create_time >= earliest)
    if (latest := moment(request, "max_create_time")) is not None:
        query = query.where(create_time < latest)
    wanted = dict(label.split("=", 1) for label in getattr(request, "labels", ()))
    if wanted and labels is not None:
        query = query.where(labels.contains(wanted))
    return query


def moment(message: Any, field: str) -> datetime | None:
    """A Timestamp field as an aware time; None where it is absent. Raises TimeInvalid: seconds and nanos of a message
    can say what no calendar knows."""
    if not message.HasField(field):
        return None
    try:
        return getattr(message, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise TimeInvalid(field) from None


def _fits(value: Any, column: ColumnElement[Any]) -> bool:
    """Whether a token's value can be compared with the column: a token is made by whoever likes to make one."""
    try:
        return isinstance(value, column.type.python_type)
    except NotImplementedError:
        return True


def _beyond(keys: Sequence[tuple[ColumnElement[Any], bool]], after: Sequence[Any]) -> ColumnElement[bool]:
    """What PostgreSQL looks up in an index. It does so for a row as a whole; an OR it only holds against each entry from the
    beginning on, and a deep page then costs what an OFFSET would."""
    (column, ascending), *others = keys
    if all(other == ascending for _, other in others):
        row = tuple_(*(column for column, _ in keys))
        return row > tuple(after) if ascending else row < tuple(after)
    # There is no row to compare where the directions differ; the first column bounds the lookup.
    bound = column >= after[0] if ascending else column <= after[0]
    alternatives = []
    for index, (column, ascending) in enumerate(keys):
        equal = [earlier == value for (earlier, _), value in zip(keys[:index], after[:index], strict=True)]
        further = column > after[index] if ascending else column < after[index]
        alternatives.append(and_(*equal, further))
    return and_(bound, or_(*alternatives))


def _question(request: Any) -> str:
    """A hash of all fields but the page's own: a token answers one question only."""
    copy = type(request)()
    copy.CopyFrom(request)
    copy.page_size = 0
    copy.page_token = ""
    text = request.DESCRIPTOR.full_name.encode() + b"\n" + copy.SerializeToString(deterministic=True)
    return hashlib.sha256(text).hexdigest()[:16]


def _decode(token: str, question: str) -> tuple[Any, ...]:
    if not token:
        return ()
    try:
        version, asked, key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        values = tuple(_unpack(value) for value in key)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _invalid() from error
    if version != _VERSION or asked != question or not values:
        raise _invalid()
    return values


def _pack(value: Any) -> Any:
    return {"t": value.isoformat()} if isinstance(value, datetime) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return datetime.fromisoformat(value["t"])
    if isinstance(value, str):
        value.encode()  # JSON can escape half of a character, which is a ValueError here and no text in a database
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("not a key")


def _invalid() -> PageTokenInvalid:
    text = "the token is damaged or belongs to a call with other fields; start again without it"
    return PageTokenInvalid(text, violations=[FieldViolation("page_token", "PAGE_TOKEN_INVALID", text)])
