"""Who may call what. Default deny; a test compares the table with the descriptors."""

from animus_kit.server.authz import in_project, public

ROWS = {
    "/animus.lineage.v1.GraphService/SearchUpstream": public("lineage.graph.read", in_project("name")),
    "/animus.lineage.v1.GraphService/SearchDownstream": public("lineage.graph.read", in_project("name")),
}
