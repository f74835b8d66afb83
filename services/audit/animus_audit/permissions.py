"""Who may call what. Default deny; a test compares the table with the descriptors."""

from animus_kit.server.authz import in_project, internal, public

# Asked by the handler itself: the project stands in the answer, not in the request.
EVENTS_GET = "audit.events.get"

_PREFIX = "/animus.audit.v1."

SYNC_ROWS = {
    _PREFIX + "EventService/GetEvent": public(None),
    _PREFIX + "EventService/ListEvents": public("audit.log.list"),
    _PREFIX + "EventService/ListProjectEvents": public("audit.events.list", in_project("parent")),
    _PREFIX + "EventService/ListSources": public("audit.sources.list"),
    _PREFIX + "EventIngestService/AppendEvents": internal("catalog", "orchestrator", "policy", "lineage"),
}

STREAM_ROWS = {
    _PREFIX + "EventStreamService/WatchProjectEvents": public("audit.events.watch", in_project("parent")),
    _PREFIX + "EventTailService/TailEvents": internal("catalog", "orchestrator", "lineage"),
}

ROWS = SYNC_ROWS | STREAM_ROWS
