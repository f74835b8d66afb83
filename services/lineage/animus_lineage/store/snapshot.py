"""Reading the view as of one moment."""

import contextlib
from collections.abc import Iterator

from sqlalchemy import Connection, Engine, select

from .tables import tail_cursors

TAIL = "graph"


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read-only snapshot: every statement in it sees the same facts and the same applied index."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True) as conn:
        with conn.begin():
            yield conn


def applied_index(conn: Connection) -> int:
    """Every fact of an event with a smaller index is in the view."""
    return conn.execute(select(tail_cursors.c.next_index).where(tail_cursors.c.name == TAIL)).scalar_one_or_none() or 0
