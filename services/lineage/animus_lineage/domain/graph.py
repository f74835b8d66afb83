"""The answer to a search: depths, and where it is cut. Plain functions over what the store found."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredNode:
    id: int
    name: str
    kind: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class StoredEdge:
    source_id: int
    target_id: int
    kind: str
    from_index: int
    declared: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """What a search found: ids in the order of their distance, the edges among them, and whether more was there."""

    ids: Sequence[int]
    nodes: Sequence[StoredNode]
    edges: Sequence[StoredEdge]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Subgraph:
    """nodes: with their distance from the start, nearest first. edges: with both ends among the nodes, by log index."""

    nodes: Sequence[tuple[StoredNode, int]]
    edges: Sequence[StoredEdge]
    truncated: bool


# What a message holds beside its strings, per node and per edge.
_NODE_OVERHEAD = 16
_EDGE_OVERHEAD = 24


def subgraph(walk: Walk, *, upstream: bool, max_depth: int, max_bytes: int) -> Subgraph:
    """Cuts a walk, which starts at its first id, at a depth and at a size of the answer."""
    depth_of = depths(walk.ids[0], walk.edges, upstream=upstream)
    by_id = {node.id: node for node in walk.nodes}
    reached = [(by_id[i], depth_of[i]) for i in walk.ids if i in depth_of and depth_of[i] <= max_depth]
    reached.sort(key=lambda pair: (pair[1], pair[0].name))
    order = {node.id: position for position, (node, _) in enumerate(reached)}
    cut = walk.truncated or len(reached) < len(walk.ids)
    edges = [edge for edge in walk.edges if edge.source_id in order and edge.target_id in order]

    # An edge is paid for with the farther of its two ends, so that a prefix of the nodes always has all its edges.
    weight = [len(node.name) + len(node.kind) + len(node.digest or "") + _NODE_OVERHEAD for node, _ in reached]
    for edge in edges:
        ends = len(by_id[edge.source_id].name) + len(by_id[edge.target_id].name)
        weight[max(order[edge.source_id], order[edge.target_id])] += ends + len(edge.kind) + _EDGE_OVERHEAD
    kept, total = 0, 0
    while kept < len(reached) and (kept == 0 or total + weight[kept] <= max_bytes):
        total += weight[kept]
        kept += 1
    if kept < len(reached):
        cut = True
        edges = [e for e in edges if order[e.source_id] < kept and order[e.target_id] < kept]
    edges.sort(key=lambda e: (e.from_index, e.source_id, e.target_id, e.kind))
    return Subgraph(reached[:kept], edges, cut)


def depths(start: int, edges: Iterable[StoredEdge], *, upstream: bool) -> dict[int, int]:
    """Distance of every node that can be reached from start: towards sources upstream, towards targets downstream."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    for edge in edges:
        if upstream:
            neighbours[edge.target_id].append(edge.source_id)
        else:
            neighbours[edge.source_id].append(edge.target_id)
    found = {start: 0}
    layer = [start]
    while layer:
        following = []
        for node in layer:
            for other in neighbours.get(node, ()):
                if other not in found:
                    found[other] = found[node] + 1
                    following.append(other)
        layer = following
    return found
