"""Where an answer is cut: at a depth, at a size, and never through an edge."""

from animus_lineage.domain.graph import StoredEdge, StoredNode, Walk, depths, subgraph


def walk(edges: list[tuple[int, int]], ids: list[int], truncated: bool = False) -> Walk:
    nodes = [StoredNode(i, f"projects/p/artifacts/n{i}", "artifact", None) for i in ids]
    return Walk(ids, nodes, [StoredEdge(s, t, "generated", i, False) for i, (s, t) in enumerate(edges)], truncated)


# 1 is made from 2 and 3, both from 4; 4 from 5.
DIAMOND = walk([(2, 1), (3, 1), (4, 2), (4, 3), (5, 4)], [1, 2, 3, 4, 5])


def test_depths_are_the_shortest():
    assert depths(1, DIAMOND.edges, upstream=True) == {1: 0, 2: 1, 3: 1, 4: 2, 5: 3}
    assert depths(4, DIAMOND.edges, upstream=False) == {4: 0, 2: 1, 3: 1, 1: 2}


def test_cycles_end():
    loop = walk([(2, 1), (1, 2)], [1, 2])
    assert depths(1, loop.edges, upstream=True) == {1: 0, 2: 1}
    assert len(subgraph(loop, upstream=True, max_depth=9, max_bytes=10**6).edges) == 2


def test_whole():
    found = subgraph(DIAMOND, upstream=True, max_depth=100, max_bytes=10**6)
    assert [(n.id, d) for n, d in found.nodes] == [(1, 0), (2, 1), (3, 1), (4, 2), (5, 3)]
    assert len(found.edges) == 5 and not found.truncated


def test_cut_at_a_depth():
    found = subgraph(DIAMOND, upstream=True, max_depth=1, max_bytes=10**6)
    assert [n.id for n, _ in found.nodes] == [1, 2, 3]
    assert [(e.source_id, e.target_id) for e in found.edges] == [(2, 1), (3, 1)] and found.truncated


def test_cut_at_a_size_keeps_a_prefix_with_all_its_edges():
    whole = subgraph(DIAMOND, upstream=True, max_depth=100, max_bytes=10**6)
    for max_bytes in range(1, 800, 20):
        found = subgraph(DIAMOND, upstream=True, max_depth=100, max_bytes=max_bytes)
        kept = {n.id for n, _ in found.nodes}
        assert found.nodes == whole.nodes[: len(found.nodes)] and kept
        assert found.edges == [e for e in whole.edges if {e.source_id, e.target_id} <= kept]
        assert found.truncated == (len(kept) < 5)


def test_a_walk_that_was_cut_says_so():
    assert subgraph(walk([(2, 1)], [1, 2], truncated=True), upstream=True, max_depth=9, max_bytes=10**6).truncated
