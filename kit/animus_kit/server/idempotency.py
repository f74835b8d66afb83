"""`request_id`: a mutation that is asked for again answers what it answered, and is not done again.

The key is (caller, method, request_id). It is kept for seven days, with the answer, in the mutation's own transaction.
Errors roll that transaction back, so they are not kept: the same id may be tried again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from animus.type.v1 import options_pb2
from animus_kit.errors import DeadlineExceeded, FailedPrecondition
from animus_kit.server.context import CallContext

GRANTS = {"requests": "SELECT, INSERT, UPDATE, DELETE"}
KEEP = "7 days"

R = TypeVar("R", bound=Message)


class RequestIdReused(FailedPrecondition):
    """The id belongs to another request. The caller makes a new id for a new request."""

    reason = "REQUEST_ID_REUSED"


class SecretAlreadyShown(FailedPrecondition):
    """It was done, and its answer held a secret, which is not kept. The caller asks for a new one."""

    reason = "SECRET_ALREADY_SHOWN"


def tables(metadata: sa.MetaData) -> sa.Table:
    """The table `requests`, to be created by the service's first migration."""
    return sa.Table(
        "requests",
        metadata,
        sa.Column("caller", sa.Text, primary_key=True),
        sa.Column("method", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Uuid(as_uuid=False), primary_key=True),
        sa.Column("body_sha256", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("had_secret", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column(
            "create_time", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.Index("requests_by_time", "create_time"),
    )


_INSERT = sa.text("""
INSERT INTO requests (caller, method, request_id, body_sha256) VALUES (:caller, :method, :id, :body)
ON CONFLICT DO NOTHING
""")
_SELECT = sa.text(f"""
SELECT body_sha256, answer, had_secret, create_time < now() - interval '{KEEP}' AS expired
FROM requests WHERE caller = :caller AND method = :method AND request_id = :id FOR UPDATE
""")
_UPDATE = sa.text("""
UPDATE requests SET body_sha256 = :body, answer = :answer, had_secret = :secret, create_time = clock_timestamp()
WHERE caller = :caller AND method = :method AND request_id = :id
""")
_PRUNE = sa.text(f"""
DELETE FROM requests WHERE (caller, method, request_id) IN (
  SELECT caller, method, request_id FROM requests
  WHERE create_time < now() - interval '{KEEP}' ORDER BY create_time LIMIT 1000 FOR UPDATE SKIP LOCKED)
""")


def once(conn: sa.Connection, ctx: CallContext, request: Message, response_cls: type[R], fn: Callable[[], R]) -> R:
    """Runs `fn` unless this request was answered before; then answers that again.

    `fn` works on `conn`, in the same transaction. A request that is under way elsewhere is waited for, up to the
    caller's deadline. Without a request_id, `fn` simply runs. Raises RequestIdReused, SecretAlreadyShown,
    DeadlineExceeded.
    """
    request_id = request.request_id  # type: ignore[attr-defined]
    if not request_id:
        return fn()
    key = {"caller": ctx.caller, "method": ctx.method, "id": request_id}
    body = _digest(request)
    _limit_waiting(conn, ctx)
    try:
        first = conn.execute(_INSERT, {**key, "body": body}).rowcount == 1
    except sa.exc.OperationalError as e:
        if getattr(e.orig, "sqlstate", None) == "55P03":  # lock_not_available
            raise DeadlineExceeded("the same request is still under way") from e
        raise
    conn.exec_driver_sql("SET LOCAL lock_timeout = 0")
    if not first:
        row = conn.execute(_SELECT, key).one_or_none()
        if row is not None and not row.expired:
            return _again(row, body, response_cls, ctx)
        if row is None:  # swept between the two statements
            conn.execute(_INSERT, {**key, "body": body})
    answer = fn()
    kept, had_secret = _without_secrets(answer)
    conn.execute(_UPDATE, {**key, "body": body, "answer": kept.SerializeToString(), "secret": had_secret})
    if request_id.endswith("00"):  # one in 256
        conn.execute(_PRUNE)
    return answer


def _again(row: Any, body: bytes, response_cls: type[R], ctx: CallContext) -> R:
    if bytes(row.body_sha256) != body:
        raise RequestIdReused("this request_id was used for another request", metadata={"method": ctx.method})
    if row.had_secret:
        raise SecretAlreadyShown("this was done, and its secret was shown then")
    return response_cls.FromString(bytes(row.answer))


def _limit_waiting(conn: sa.Connection, ctx: CallContext) -> None:
    remaining = ctx.remaining()
    if remaining is None:
        remaining = 30.0
    elif remaining <= 0:
        raise DeadlineExceeded("the caller's time is over")
    conn.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, int(remaining * 1000))}")


def _digest(request: Message) -> bytes:
    """Of the request without its request_id. Deterministic within one version of the stubs, which is enough: after an
    upgrade between two tries the worst is a refusal, never a second execution."""
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def _without_secrets(answer: R) -> tuple[R, bool]:
    if not any(_secrets_of(answer.DESCRIPTOR, ())):
        return answer, False
    kept = type(answer)()
    kept.CopyFrom(answer)
    return kept, _clear(kept)


def _clear(message: Message) -> bool:
    found = False
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[options_pb2.secret_once]:
            message.ClearField(field.name)
            found = True
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else (value,):
                found |= _clear(inner)
    return found


def _secrets_of(descriptor: Descriptor, seen: tuple[str, ...]) -> Iterator[FieldDescriptor]:
    for field in descriptor.fields:
        if field.GetOptions().Extensions[options_pb2.secret_once]:
            yield field
        elif field.message_type is not None and field.message_type.full_name not in seen:
            yield from _secrets_of(field.message_type, (*seen, descriptor.full_name))
