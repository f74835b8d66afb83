"""EventService: proto ⇄ domain. Reads only."""

from sqlalchemy import Engine

from animus.audit.v1 import event_pb2 as pb
from animus.audit.v1 import event_pb2_grpc as rpc
from animus_kit.db.engine import transaction
from animus_kit.server.authz import Access, AccessDenied, DenialSink
from animus_kit.server.context import current
from animus_kit.server.paging import Page, PageTokenInvalid

from .. import permissions
from ..domain.errors import EventNotFound
from ..store import events
from .mapping import event_to_proto, filter_from_proto


class EventService(rpc.EventServiceServicer):
    def __init__(self, engine: Engine, access: Access, denials: DenialSink):
        self._engine = engine
        self._access = access
        self._denials = denials

    def GetEvent(self, request: pb.GetEventRequest, context) -> pb.Event:
        """The permission depends on the event, so it is asked here: the project's, or the platform's."""
        with transaction(self._engine) as conn:
            event = events.get(conn, int(request.name.removeprefix("events/")))
        project = event.project if event else None
        try:
            self._access.check(current(), permissions.EVENTS_GET, project)
        except AccessDenied:
            self._denials.record(current(), permissions.EVENTS_GET, project)
            raise
        if event is None:
            raise EventNotFound(request.name)
        return event_to_proto(event)

    def ListEvents(self, request: pb.ListEventsRequest, context) -> pb.ListEventsResponse:
        return self._list(request, project=None)

    def ListProjectEvents(self, request: pb.ListProjectEventsRequest, context) -> pb.ListEventsResponse:
        return self._list(request, project=request.parent)

    def ListSources(self, request: pb.ListSourcesRequest, context) -> pb.ListSourcesResponse:
        with transaction(self._engine) as conn:
            size = events.log_size(conn)
            found = events.list_sources(conn)
        return pb.ListSourcesResponse(
            sources=[
                pb.Source(
                    source=s.source, generation=s.generation, last_seq=s.last_seq, last_append_time=s.last_append_time
                )
                for s in found
            ],
            log_size=size,
        )

    def _list(self, request, project: str | None) -> pb.ListEventsResponse:
        page = Page.parse(request)
        with transaction(self._engine) as conn:
            size = events.log_size(conn)
            found = events.page(
                conn,
                filter_from_proto(request.filter, project),
                after=_after(page),
                below=size,
                limit=page.size,
                descending=request.descending,
            )
        return pb.ListEventsResponse(
            events=[event_to_proto(event) for event in found.events],
            next_page_token=page.token(found.events[-1].index) if found.more else "",
            log_size=size,
        )


def _after(page: Page) -> int | None:
    """The index that the page before ended at."""
    if not page.after:
        return None
    if len(page.after) != 1 or not isinstance(page.after[0], int) or not 0 <= page.after[0] < 2**63:
        raise PageTokenInvalid("the token is damaged; start again without it")
    return page.after[0]
