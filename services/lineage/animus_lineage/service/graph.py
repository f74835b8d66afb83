"""GraphService: proto ⇄ domain. Reads only."""

from sqlalchemy import Engine

from animus.lineage.v1 import graph_pb2 as pb
from animus.lineage.v1 import graph_pb2_grpc as rpc

from ..domain.errors import IndexNotApplied, NodeNotFound
from ..domain.graph import Subgraph, subgraph
from ..store import graph, snapshot

_DEFAULT_DEPTH = 100
_MAX_NODES = 10_000
# An answer must stay below gRPC's default limit of 4 MiB.
MAX_ANSWER_BYTES = 3_500_000


class GraphService(rpc.GraphServiceServicer):
    def __init__(self, engine: Engine):
        self._engine = engine

    def SearchUpstream(self, request: pb.SearchUpstreamRequest, context) -> pb.Graph:
        return self._search(request, upstream=True)

    def SearchDownstream(self, request: pb.SearchDownstreamRequest, context) -> pb.Graph:
        return self._search(request, upstream=False)

    def _search(self, request: pb.SearchUpstreamRequest | pb.SearchDownstreamRequest, *, upstream: bool) -> pb.Graph:
        # One snapshot: the nodes, the edges and the index they are told as of belong together.
        with snapshot.reading(self._engine) as conn:
            applied = snapshot.applied_index(conn)
            if request.as_of_index > applied:
                raise IndexNotApplied(request.as_of_index, applied)
            as_of = request.as_of_index or applied
            start = graph.find_node(conn, request.name, as_of)
            if start is None:
                raise NodeNotFound(request.name, as_of)
            walk = graph.walk(conn, start.id, upstream=upstream, as_of=as_of, max_nodes=request.max_nodes or _MAX_NODES)
        found = subgraph(
            walk, upstream=upstream, max_depth=request.max_depth or _DEFAULT_DEPTH, max_bytes=MAX_ANSWER_BYTES
        )
        return to_proto(found, as_of)


def to_proto(found: Subgraph, applied_index: int) -> pb.Graph:
    names = {node.id: node.name for node, _ in found.nodes}
    return pb.Graph(
        nodes=[
            pb.Node(name=node.name, kind=node.kind, depth=depth, digest=node.digest or "")
            for node, depth in found.nodes
        ],
        edges=[
            pb.Edge(
                source=names[edge.source_id],
                target=names[edge.target_id],
                kind=edge.kind,
                log_index=edge.from_index,
                declared=edge.declared,
            )
            for edge in found.edges
        ],
        applied_index=applied_index,
        truncated=found.truncated,
    )
