"""Connections and transactions.

    engine = create_engine(settings.dsn, pool=8)
    with transaction(engine) as conn:
        ...

A DSN is libpq's: a URI or `key=value` words, with `passfile=` rather than a password where it stands in a setting.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg
import psycopg.conninfo
import sqlalchemy as sa

from animus_kit import trace

POOL_TIMEOUT = 5.0
"""Seconds to wait for a connection before the call is refused: waiting longer only makes the queue longer."""
STATEMENT_SECONDS = 60.0
LEAST_STATEMENT_SECONDS = 1.0
"""What a statement gets where the caller has less left, or is gone: something may have to be tidied up after it."""


class UnsafeDsn(ValueError):
    """A DSN that would send passwords or rows over a network in clear, or to whoever answers."""


def check_dsn(dsn: str) -> str:
    """Refuses everything but Unix sockets and `sslmode=verify-full`. Returns the DSN. Raises UnsafeDsn."""
    try:
        words = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as e:
        raise UnsafeDsn("not a libpq connection string") from e
    hosts = str(words.get("host", "")).split(",")
    if all(host.startswith("/") for host in hosts) and not words.get("hostaddr"):
        return dsn
    if words.get("sslmode") != "verify-full":
        raise UnsafeDsn("a database on a network needs sslmode=verify-full (a Unix socket: host=/folder)")
    return dsn


def create_engine(dsn: str, pool: int = 8, *, application_name: str = "animus") -> sa.Engine:
    """An engine with at most `pool` connections. Raises UnsafeDsn; does not connect."""
    check_dsn(dsn)

    def connect() -> psycopg.Connection:
        return psycopg.connect(
            dsn,
            application_name=application_name,
            connect_timeout=5,
            # A handler that hangs must not hold row locks for ever.
            options=f"-c idle_in_transaction_session_timeout=60000 -c statement_timeout={STATEMENT_SECONDS * 1000:.0f}",
        )

    return sa.create_engine(
        "postgresql+psycopg://", creator=connect, pool_size=pool, max_overflow=0, pool_timeout=POOL_TIMEOUT
    )


@contextlib.contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction: committed at the end of the block, rolled back when it raises.

    READ COMMITTED; what must not change under your eyes is locked with FOR UPDATE. Outgoing calls inside the block
    raise (animus_kit.channel): no transaction is ever open across an RPC. Transactions do not nest. No statement goes on
    for long after the caller's deadline (animus_kit.trace): it fails with QueryCanceled, which the door calls
    DEADLINE_EXCEEDED.
    """
    if trace.in_transaction.get():
        raise RuntimeError("a transaction inside a transaction: pass the connection instead")
    token = trace.in_transaction.set(True)
    try:
        with engine.begin() as conn:
            _bound(conn)
            yield conn
    finally:
        trace.in_transaction.reset(token)


def _bound(conn: sa.Connection) -> None:
    """A round trip, which only those pay who have a deadline; dispatch and background loops have none."""
    deadline = trace.deadline.get()
    if deadline is None:
        return
    left = max(deadline - time.monotonic(), LEAST_STATEMENT_SECONDS)
    if left < STATEMENT_SECONDS:
        conn.exec_driver_sql(f"SET LOCAL statement_timeout = {left * 1000:.0f}")


def is_away(error: BaseException) -> bool:
    """Whether the database failed rather than the statement: whoever tries again at once waits again."""
    if isinstance(error, sa.exc.TimeoutError):  # every connection of the pool is in use
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    # Class 08 and 57P: the connection or the server went away; 53: out of connections, memory or disk.
    gone = state[:2] in ("08", "53") or state.startswith("57P")
    return (
        error.connection_invalidated
        or gone
        or (not state and isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError))
    )
