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
    sa.Index("rows_by_time", "create_time", "name"),
    sa.Index("rows_mixed", sa.text("create_time DESC"), "name"),
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


def lookup(conn, keys, after):
    """How PostgreSQL finds the page that begins behind a row: (condition on the index, entries that it looked at in vain)."""
    asked = []
    page = Page.parse(pb.ListRoleBindingsRequest(page_size=5))
    with_after = Page.parse(pb.ListRoleBindingsRequest(page_size=5, page_token=page.token(*after)))
    conn.exec_driver_sql(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"
    )

    def keep(conn, cursor, statement, parameters, context, executemany):
        asked.append((statement, parameters))

    sa.event.listen(conn, "before_cursor_execute", keep)
    found, _ = with_after.fetch_by(conn, sa.select(rows), keys)
    sa.event.remove(conn, "before_cursor_execute", keep)
    (statement, parameters) = asked[0]
    explained = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    scan = explained[0]["Plan"]["Plans"][0]
    return [row.name for row in found], scan["Index Cond"], scan.get("Rows Removed by Filter", 0)


@pytest.mark.parametrize("up", [True, False])
def test_a_deep_page_is_looked_up_and_not_walked_to(conn, up):
    keys = [(rows.c.create_time, up), (rows.c.name, up)]
    found, condition, in_vain = lookup(conn, keys, (START + timedelta(seconds=20), "n061"))
    assert found == ([f"n{n:03}" for n in range(62, 67)] if up else [f"n{n:03}" for n in range(60, 55, -1)])
    assert condition.startswith("(ROW(create_time, name)") and in_vain == 0


def test_where_the_directions_differ_the_first_column_is_looked_up(conn):
    keys = [(rows.c.create_time, False), (rows.c.name, True)]
    found, condition, in_vain = lookup(conn, keys, (START + timedelta(seconds=20), "n061"))
    assert found == ["n062", "n057", "n058", "n059", "n054"]
    assert condition.startswith("(create_time <=") and in_vain == 2  # n060 and n061 itself, of the same moment


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
