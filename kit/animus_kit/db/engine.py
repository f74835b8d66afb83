"""Connections and transactions.

    engine = create_engine(settings.dsn, pool=8)
    with transaction(engine) as conn:
        ...

A DSN is libpq's: a URI or `key=value` words, with `passfile=` rather than a password where it stands in a setting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import psycopg.conninfo
import sqlalchemy as sa

from animus_kit.trace import in_transaction

POOL_TIMEOUT = 5.0
"""Seconds to wait for a connection before the call is refused: waiting longer only makes the queue longer."""


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
            options="-c idle_in_transaction_session_timeout=60000 -c statement_timeout=60000",
        )

    return sa.create_engine(
        "postgresql+psycopg://", creator=connect, pool_size=pool, max_overflow=0, pool_timeout=POOL_TIMEOUT
    )


@contextlib.contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction: committed at the end of the block, rolled back when it raises.

    READ COMMITTED; what must not change under your eyes is locked with FOR UPDATE. Outgoing calls inside the block
    raise (animus_kit.channel): no transaction is ever open across an RPC. Transactions do not nest.
    """
    if in_transaction.get():
        raise RuntimeError("a transaction inside a transaction: pass the connection instead")
    token = in_transaction.set(True)
    try:
        with engine.begin() as conn:
            yield conn
    finally:
        in_transaction.reset(token)


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
