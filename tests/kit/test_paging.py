"""Pages: every row once, in order, whatever is added meanwhile; tokens answer one question."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from animus.policy.v1 import role_binding_pb2 as pb
from animus.type.v1.list_order_pb2 import ListOrder
from animus_kit.server.paging import MAX_SIZE, Page, PageTokenInvalid

PACKAGES = ()
START = datetime(2026, 1, 1, tzinfo=UTC)
metadata = sa.MetaData()
# Three rows share each moment, so that ties are always broken by name.
rows = sa.Table(
    "rows",
    metadata,
    sa.Column("name", sa.Text(collation="C"), primary_key=True),
    sa.Column("create_time", sa.TIMESTAMP(timezone=True)),
    prefixes=["TEMPORARY"],
)


@pytest.fixture
def conn(database):
    with database.engine("policy", 1).connect() as conn:
        database_grant(database)
        metadata.create_all(conn)
        conn.execute(
            rows.insert(), [{"name": f"n{n:03}", "create_time": START + timedelta(seconds=n // 3)} for n in range(100)]
        )
        yield conn
        conn.rollback()


def database_grant(database):
    import psycopg

    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute(f'GRANT TEMPORARY ON DATABASE "{database.name}" TO policy')


def walk(conn, **fields):
    token, seen, pages = "", [], 0
    while True:
        page = Page.parse(pb.ListRoleBindingsRequest(parent="projects/p", page_token=token, **fields))
        found, token = page.fetch(conn, sa.select(rows), rows.c.create_time, rows.c.name)
        seen += [row.name for row in found]
        pages += 1
        if not token:
            return seen, pages


ALL = [f"n{n:03}" for n in range(100)]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [(0, ALL[::-1]), (ListOrder.LIST_ORDER_CREATE_TIME_ASC, ALL), (ListOrder.LIST_ORDER_NAME_ASC, ALL)],
)
def test_every_row_once_and_in_order(conn, order, wanted):
    for size in (1, 7, 50, 100, 500):
        seen, pages = walk(conn, page_size=size, order_by=order)
        assert seen == wanted
        assert pages == -(-100 // size)


def test_fifty_by_default_and_five_hundred_at_most():
    assert Page.parse(pb.ListRoleBindingsRequest()).size == 50
    assert Page.parse(pb.ListRoleBindingsRequest(page_size=10_000)).size == MAX_SIZE == 500


def test_rows_that_come_meanwhile_do_not_shift_pages(conn):
    first = Page.parse(pb.ListRoleBindingsRequest(page_size=10))
    found, token = first.fetch(conn, sa.select(rows), rows.c.create_time, rows.c.name)
    conn.execute(rows.insert(), [{"name": "newest", "create_time": START + timedelta(days=1)}])
    second = Page.parse(pb.ListRoleBindingsRequest(page_size=10, page_token=token))
    more, _ = second.fetch(conn, sa.select(rows), rows.c.create_time, rows.c.name)
    assert [row.name for row in (*found, *more)] == ALL[::-1][:20]


def test_a_token_answers_one_question(conn):
    page = Page.parse(pb.ListRoleBindingsRequest(parent="projects/p", page_size=10))
    _, token = page.fetch(conn, sa.select(rows), rows.c.create_time, rows.c.name)
    Page.parse(pb.ListRoleBindingsRequest(parent="projects/p", page_size=20, page_token=token))
    for other in (
        pb.ListRoleBindingsRequest(parent="projects/q", page_token=token),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token=token, member="user:a"),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token=token, order_by=ListOrder.LIST_ORDER_NAME_ASC),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token=token[:-2]),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token="é"),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token="e30"),
        pb.ListRoleBindingsRequest(parent="projects/p", page_token="bnVsbA"),
    ):
        with pytest.raises(PageTokenInvalid):
            Page.parse(other)
