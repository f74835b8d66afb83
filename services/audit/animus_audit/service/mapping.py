"""proto ⇄ domain for what several of audit's services share."""

from animus.audit.v1 import event_pb2 as pb
from animus_kit.server.paging import moment

from ..store.events import Filter, StoredEvent


def event_to_proto(event: StoredEvent) -> pb.Event:
    return pb.Event(
        name=f"events/{event.index}",
        index=event.index,
        envelope=event.envelope,
        payload=event.payload,
        salt=event.salt,
        source=event.source,
        seq=event.seq,
        type=event.event_type,
        event_time=event.event_time,
        project=event.project,
        resource=event.resource,
        actor=event.actor,
        request_id=event.request_id,
        append_time=event.append_time,
    )


def filter_from_proto(message: pb.EventFilter, project: str | None = None) -> Filter:
    return Filter(
        types=tuple(message.types),
        resource=message.resource or None,
        project=project,
        source=message.source or None,
        actor=message.actor or None,
        request_id=message.request_id or None,
        min_time=moment(message, "min_event_time"),
        max_time=moment(message, "max_event_time"),
    )
