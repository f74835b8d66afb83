"""Adding facts to the view, and walking it. Every function takes an open transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection, TextClause, func, select, text
from sqlalchemy.dialects.postgresql import insert

from ..domain.facts import Facts
from ..domain.graph import StoredEdge, StoredNode, Walk
from .tables import edges, nodes, skipped_events

MAX_EDGES = 100_000
"""Of a walk: more than an answer of 4 MiB has room for."""


def add_facts(conn: Connection, project: str, index: int, facts: Facts) -> None:
    """Adds what an event states. What the view has already keeps the index it was first stated at."""
    if not facts.nodes:
        return
    # In the order of names, so that two appliers could never lock each other out.
    rows = [
        {"name": n.name, "project": project, "kind": n.kind, "digest": n.digest, "from_index": index}
        for n in sorted(facts.nodes.values(), key=lambda n: n.name)
    ]
    added = insert(nodes).values(rows)
    upsert = added.on_conflict_do_update(
        index_elements=[nodes.c.name], set_={"digest": func.coalesce(nodes.c.digest, added.excluded.digest)}
    )
    ids = {row.name: row.id for row in conn.execute(upsert.returning(nodes.c.name, nodes.c.id))}
    if facts.edges:
        conn.execute(
            insert(edges)
            .values(
                [
                    {"source_id": ids[e.source], "target_id": ids[e.target], "kind": e.kind, "from_index": index}
                    for e in facts.edges
                ]
            )
            .on_conflict_do_nothing()
        )


def skip(conn: Connection, index: int, event_type: str, problem: str) -> None:
    values = {"index": index, "event_type": event_type, "problem": problem}
    conn.execute(insert(skipped_events).values(values).on_conflict_do_nothing())


def find_node(conn: Connection, name: str, as_of: int) -> StoredNode | None:
    row = conn.execute(
        select(nodes.c.id, nodes.c.name, nodes.c.kind, nodes.c.digest).where(
            nodes.c.name == name, nodes.c.from_index < as_of
        )
    ).one_or_none()
    return StoredNode(*row) if row else None


def walk(conn: Connection, start: int, *, upstream: bool, as_of: int, max_nodes: int) -> Walk:
    """Everything that can be reached from start, nearest first, as the log's first as_of events tell it.

    UNION (not UNION ALL) ends at cycles and visits a node once. A recursive query yields its rows round by round, and
    LIMIT stops it, so the cost is bounded by max_nodes whatever the size of the graph.
    """
    ids = list(
        conn.execute(
            _UPSTREAM if upstream else _DOWNSTREAM, {"start": start, "as_of": as_of, "n": max_nodes + 1}
        ).scalars()
    )
    truncated = len(ids) > max_nodes
    ids = ids[:max_nodes]
    asked = {"ids": ids, "as_of": as_of, "n": MAX_EDGES + 1}
    # Where the walk was not cut, the far end of each edge has been reached.
    rows = [] if truncated else conn.execute(_EDGES_INTO if upstream else _EDGES_OUT_OF, asked).all()
    if truncated or len(rows) > MAX_EDGES:
        rows = conn.execute(_EDGES_AMONG, asked).all()
    if len(rows) > MAX_EDGES:
        # Of the node at this place there may be more: the nodes before it have all their edges.
        truncated, place = True, rows[-1].place
        ids, rows = ids[: max(1, place - 1)], [row for row in rows if row.place < place]
    return Walk(ids, _nodes(conn, ids), [StoredEdge(*row[:5]) for row in rows], truncated)


def _walk_sql(here: str, there: str) -> TextClause:
    return text(f"""
        WITH RECURSIVE walk(id) AS (
            SELECT CAST(:start AS bigint)
            UNION
            SELECT e.{there} FROM walk w JOIN edges e ON e.{here} = w.id
            WHERE e.from_index < :as_of AND (e.until_index IS NULL OR e.until_index >= :as_of)
        )
        SELECT id FROM walk LIMIT :n
    """)


_UPSTREAM = _walk_sql("target_id", "source_id")
_DOWNSTREAM = _walk_sql("source_id", "target_id")


# The ids go through a subquery, so that the planner takes an index for each of them instead of estimating ten thousand
# constants, which costs more than the query.
_IDS = "= ANY ((SELECT CAST(:ids AS bigint[]))::bigint[])"
_NODES = text(f"SELECT id, name, kind, digest FROM nodes WHERE id {_IDS}")


def _edges_sql(near: str) -> TextClause:
    return text(f"""
        SELECT source_id, target_id, kind, from_index, declared FROM edges
        WHERE {near} {_IDS} AND from_index < :as_of AND (until_index IS NULL OR until_index >= :as_of)
        LIMIT :n
    """)


_EDGES_INTO, _EDGES_OUT_OF = _edges_sql("target_id"), _edges_sql("source_id")
# With both ends among the ids, in the order of the farther end. Read by their targets, whichever way the walk went:
# millions may be made from one node, and a node is made from few. OFFSET keeps the planner from beginning elsewhere.
_EDGES_AMONG = text("""
    WITH reached(id, place) AS MATERIALIZED (
        SELECT id, place FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS given(id, place)
    )
    SELECT e.source_id, e.target_id, e.kind, e.from_index, e.declared, greatest(source.place, target.place) AS place
    FROM reached AS target CROSS JOIN LATERAL (
        SELECT * FROM edges
        WHERE target_id = target.id AND from_index < :as_of AND (until_index IS NULL OR until_index >= :as_of)
        OFFSET 0
    ) AS e JOIN reached AS source ON source.id = e.source_id
    ORDER BY place LIMIT :n
""")


def _nodes(conn: Connection, ids: Sequence[int]) -> list[StoredNode]:
    return [StoredNode(*row) for row in conn.execute(_NODES, {"ids": list(ids)})]
