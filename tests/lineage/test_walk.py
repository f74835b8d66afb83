"""The recursive query against a plain search in Python, on random graphs with cycles and closed edges."""

import random

import pytest
import sqlalchemy as sa

from animus_lineage.domain.graph import depths
from animus_lineage.store import graph
from animus_lineage.store.tables import edges, nodes


@pytest.fixture(params=range(4))
def rng(request) -> random.Random:
    return random.Random(request.param)


def fill(conn, rng, count: int) -> tuple[list[int], list[dict]]:
    ids = list(
        conn.execute(
            sa.insert(nodes).returning(nodes.c.id),
            [
                {
                    "name": f"projects/p/artifacts/{rng.random()}",
                    "project": "projects/p",
                    "kind": "artifact",
                    "from_index": 0,
                }
                for _ in range(count)
            ],
        ).scalars()
    )
    pairs = {(rng.choice(ids), rng.choice(ids)) for _ in range(count * 2)}
    rows = []
    for source, target in sorted(pairs):
        start = rng.randrange(100)
        end = start + rng.randrange(1, 50) if rng.random() < 0.3 else None
        rows.append(
            {"source_id": source, "target_id": target, "kind": "used-input", "from_index": start, "until_index": end}
        )
    conn.execute(sa.insert(edges), rows)
    return ids, rows


@pytest.mark.parametrize("upstream", [True, False])
def test_equal_to_a_plain_search(fresh_database, rng, upstream):
    with fresh_database.engine("lineage", 1).begin() as conn:
        ids, rows = fill(conn, rng, 60)
        for as_of in (0, 30, 70, 1000):
            known = [
                graph.StoredEdge(r["source_id"], r["target_id"], r["kind"], r["from_index"], False)
                for r in rows
                if r["from_index"] < as_of and (r["until_index"] is None or r["until_index"] >= as_of)
            ]
            start = rng.choice(ids)
            expected = depths(start, known, upstream=upstream)
            found = graph.walk(conn, start, upstream=upstream, as_of=as_of, max_nodes=1000)
            assert set(found.ids) == set(expected) and not found.truncated
            # Nearest first, so that a cut keeps the nearest.
            assert [expected[i] for i in found.ids] == sorted(expected.values())
            assert {n.id for n in found.nodes} == set(expected)
            among = {e for e in known if e.source_id in expected and e.target_id in expected}
            assert set(found.edges) == among
            few = graph.walk(conn, start, upstream=upstream, as_of=as_of, max_nodes=5)
            assert few.truncated == (len(expected) > 5) and len(few.ids) == min(5, len(expected))


@pytest.mark.parametrize("upstream", [True, False])
def test_a_walk_with_too_many_edges_is_cut_between_nodes(fresh_database, rng, upstream, monkeypatch):
    with fresh_database.engine("lineage", 1).begin() as conn:
        ids, _ = fill(conn, rng, 60)
        whole = max(
            (graph.walk(conn, id, upstream=upstream, as_of=1000, max_nodes=1000) for id in ids),
            key=lambda walk: len(walk.edges),
        )
        for bound in range(len(whole.edges) + 1):
            monkeypatch.setattr(graph, "MAX_EDGES", bound)
            cut = graph.walk(conn, whole.ids[0], upstream=upstream, as_of=1000, max_nodes=1000)
            assert cut.truncated == (bound < len(whole.edges)) and len(cut.edges) <= bound
            assert cut.ids == whole.ids[: len(cut.ids)] and len(cut.nodes) == len(cut.ids)
            kept = set(cut.ids)
            assert bound == 0 or set(cut.edges) == {
                e for e in whole.edges if e.source_id in kept and e.target_id in kept
            }


def test_a_cut_walk_reads_what_it_answers_of_a_node_that_much_is_made_from(fresh_database):
    engine, sent = fresh_database.engine("lineage", 1), []
    with engine.begin() as conn:
        hub, *leaves = fill_hub(conn, 2000)
        sa.event.listen(engine, "after_cursor_execute", lambda _, cursor, *rest: sent.append(cursor.rowcount))
        found = graph.walk(conn, hub, upstream=False, as_of=1000, max_nodes=5)
        assert found.truncated and set(found.ids[1:]) < set(leaves)
        assert {(e.source_id, e.target_id) for e in found.edges} == {(hub, leaf) for leaf in found.ids[1:]}
        assert sent == [6, 4, 5]


def fill_hub(conn, count: int) -> list[int]:
    """A node and as many that are made from it."""
    rows = [
        {"name": f"projects/p/artifacts/{n}", "project": "projects/p", "kind": "artifact", "from_index": 0}
        for n in range(count + 1)
    ]
    hub, *leaves = conn.execute(sa.insert(nodes).returning(nodes.c.id), rows).scalars()
    conn.execute(
        sa.insert(edges),
        [{"source_id": hub, "target_id": leaf, "kind": "used-input", "from_index": 0} for leaf in leaves],
    )
    return [hub, *leaves]
