"""animus audit"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from animus_cli import show
from animus_cli.base import Limit, Project, Subject, answer, client, command, full, group

app = group("The log: what is not in it did not happen.")
Types = Annotated[
    list[str], typer.Option("--type", help="An event type, or a prefix that ends in '.'; may be repeated.")
]


@command(app, "list")
def list_(
    project: Project = "",
    type: Types = [],
    resource: Annotated[str, typer.Option(help="A full name, or a prefix that ends in '/'.")] = "",
    newest: Annotated[bool, typer.Option("--newest", help="Newest first.")] = False,
    limit: Limit = 200,
    as_: Subject = "",
) -> None:
    """Events of a project; without --project all of them, for whoever may read the whole log."""
    from animus.audit.v1 import event_pb2

    filter = event_pb2.EventFilter(types=type, resource=resource)
    with client(as_) as it:
        if project:
            request: Any = event_pb2.ListProjectEventsRequest(parent=full(project), filter=filter, descending=newest)
            found = list(it.pages(it.events_api.ListProjectEvents, request, "events", limit))
        else:
            request = event_pb2.ListEventsRequest(filter=filter, descending=newest)
            found = list(it.pages(it.events_api.ListEvents, request, "events", limit))
    answer({"events": [as_dict(event) for event in found]}, lambda: events(found))


def as_dict(event: Any) -> dict[str, Any]:
    """With the documents as JSON rather than as base64."""
    whole = show.to_json(event)
    for name in ("envelope", "payload"):
        data = getattr(event, name)
        whole[name] = json.loads(data) if data else None
    return whole


def events(found: list[Any]) -> None:
    rows = [(e.index, show.moment(e.event_time), e.type, e.resource, e.actor) for e in found]
    show.table([">index", "time", "event", "resource", "actor"], rows)


@command(app)
def sources(as_: Subject = "") -> None:
    """How far the log is for each source."""
    from animus.audit.v1 import event_pb2

    with client(as_) as it:
        found = it.call(it.events_api.ListSources, event_pb2.ListSourcesRequest())
    rows = [(s.source, s.generation, s.last_seq, show.moment(s.last_append_time)) for s in found.sources]
    answer(found, lambda: show.table(["source", "generation", ">events", "newest"], rows))
