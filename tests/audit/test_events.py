"""EventService over mTLS: filters, pages, who may see what; and audit's own events."""

import hashlib
import json
import uuid
from datetime import timedelta

import pytest

from animus.audit.v1 import event_pb2 as pb
from animus.policy.v1.role_binding_pb2 import RoleBinding
from animus_audit.store import events as store
from tests.services import eventually, refused

from .events import TIME, Source

PACKAGES = ("animus_audit", "animus_policy")


@pytest.fixture(scope="module")
def source() -> Source:
    """One generation for the module: a new one would supersede it."""
    return Source("catalog")


@pytest.fixture
def project() -> str:
    return f"projects/e-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def send(ingest_as, source):
    def append(count=1, **changes):
        batch = source.next(count, **changes)
        ingest_as("catalog").AppendEvents(source.request(batch))
        return batch

    return append


def test_an_event_is_told_as_it_was_sent(events, people, send, project):
    (sent,) = send(project=project, resource=f"{project}/datasets/d", request_id="r-1")
    answer = events.ListProjectEvents(pb.ListProjectEventsRequest(parent=project), metadata=people.root)
    (event,) = answer.events
    assert (event.envelope, event.payload, event.salt) == (sent.envelope, sent.payload, sent.salt)
    assert (event.source, event.seq, event.type) == ("catalog", sent.seq, "catalog.dataset.created")
    assert (event.project, event.resource, event.request_id) == (project, f"{project}/datasets/d", "r-1")
    assert event.name == f"events/{event.index}" and answer.log_size > event.index
    envelope = json.loads(event.envelope)
    assert envelope["payloadDigest"] == "sha256:" + hashlib.sha256(event.salt + event.payload).hexdigest()
    got = events.GetEvent(pb.GetEventRequest(name=event.name), metadata=people.root)
    assert got == event and got.HasField("append_time")


def test_pages_in_both_directions(events, people, send, project):
    send(7, project=project)

    def walk(**fields):
        found, token = [], ""
        while True:
            page = events.ListProjectEvents(
                pb.ListProjectEventsRequest(parent=project, page_size=3, page_token=token, **fields),
                metadata=people.root,
            )
            found += [e.index for e in page.events]
            token = page.next_page_token
            if not token:
                return found

    up = walk()
    assert len(up) == 7 and up == sorted(up)
    assert walk(descending=True) == up[::-1]


def test_heavy_pages_are_cut_before_grpc_would(events, people, send, project):
    payload = b"x" * 900_000
    for _ in range(5):
        send(project=project, payload=payload)
    request = pb.ListProjectEventsRequest(parent=project, page_size=500)
    sizes = []
    while True:
        page = events.ListProjectEvents(request, metadata=people.root)
        sizes.append(len(page.events))
        assert page.ByteSize() < 4 << 20
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert sum(sizes) == 5 and len(sizes) > 1
    assert store.MAX_PAGE_BYTES < 4 << 20


def test_filters(events, people, send, project):
    a, b = f"{project}/datasets/a", f"{project}/datasets/a-b"
    send(project=project, resource=a)
    send(project=project, resource=f"{a}/versions/1", event_type="catalog.dataset-version.created")
    send(project=project, resource=b, event_type="catalog.dataset.created", actor="service/catalog")
    send(project=project, resource=b, request_id="req-9", time=TIME + timedelta(hours=1))

    def found(**fields):
        request = pb.ListProjectEventsRequest(parent=project, filter=pb.EventFilter(**fields))
        return [e.resource for e in events.ListProjectEvents(request, metadata=people.root).events]

    version = f"{a}/versions/1"
    assert found() == [a, version, b, b]
    assert found(types=["catalog.dataset.created"]) == [a, b, b]
    assert found(types=["catalog.dataset-version.created", "policy."]) == [version]
    assert found(types=["catalog."]) == [a, version, b, b]
    assert found(types=["catalog.dataset"]) == []
    assert found(resource=a) == [a]
    assert found(resource=f"{a}/") == [version]
    assert found(resource="projects/%/") == []
    assert found(source="catalog") == [a, version, b, b] and found(source="policy") == []
    assert found(actor="service/catalog") == [b]
    assert found(request_id="req-9") == [b]
    assert found(min_event_time=TIME + timedelta(minutes=1)) == [b]
    assert found(max_event_time=TIME + timedelta(minutes=1)) == [a, version, b]
    assert found(types=["catalog."], resource=b, request_id="req-9") == [b]


def test_the_whole_log_is_for_the_platform(events, people, send, project, bind):
    send(project=project)
    bind(project, "user:auditor", RoleBinding.ROLE_AUDITOR)
    auditor = people.as_("auditor")
    assert events.ListEvents(pb.ListEventsRequest(), metadata=people.root).events[0].index == 0
    for call, request in (
        (events.ListEvents, pb.ListEventsRequest()),
        (events.ListSources, pb.ListSourcesRequest()),
    ):
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            call(request, metadata=auditor)


def test_a_projects_events_are_for_its_auditors(events, people, send, project, bind):
    send(project=project)
    index = (
        send(project=project)
        and events.ListProjectEvents(pb.ListProjectEventsRequest(parent=project, descending=True), metadata=people.root)
        .events[0]
        .index
    )
    bind(project, "user:auditor", RoleBinding.ROLE_AUDITOR)
    bind(project, "user:editor", RoleBinding.ROLE_EDITOR)
    calls = (
        (events.ListProjectEvents, pb.ListProjectEventsRequest(parent=project)),
        (events.GetEvent, pb.GetEventRequest(name=f"events/{index}")),
    )
    for call, request in calls:
        call(request, metadata=people.as_("auditor"))
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            call(request, metadata=people.as_("editor"))
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        events.ListProjectEvents(pb.ListProjectEventsRequest(parent="projects/other"), metadata=people.as_("auditor"))


def test_what_is_not_there_is_told_to_the_platform_only(events, people):
    request = pb.GetEventRequest(name="events/999999999999999999")
    with refused("NOT_FOUND", "EVENT_NOT_FOUND"):
        events.GetEvent(request, metadata=people.root)
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        events.GetEvent(request, metadata=people.as_("alice"))


def test_a_denial_becomes_an_event_of_audits_own_by_the_same_way(events, people, project):
    """Through audit's outbox and its sequencer into the same log: from a row's check, and from a handler's own."""
    subject = f"mallory-{uuid.uuid4().hex[:6]}"
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        events.ListProjectEvents(pb.ListProjectEventsRequest(parent=project), metadata=people.as_(subject))
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        events.GetEvent(pb.GetEventRequest(name="events/999999999999999999"), metadata=people.as_(subject))

    def told():
        request = pb.ListEventsRequest(filter=pb.EventFilter(types=["audit.access.denied"], source="audit"))
        found = events.ListEvents(request, metadata=people.root).events
        mine = [json.loads(e.payload) for e in found if json.loads(e.payload)["actor"] == subject]
        return mine if len(mine) == 2 else None

    first, second = eventually(told)
    assert first["permission"] == "audit.events.list" and second["permission"] == "audit.events.get"


def test_sources(events, people, send, source):
    send()
    answer = events.ListSources(pb.ListSourcesRequest(), metadata=people.root)
    mine = next(s for s in answer.sources if s.generation == source.generation)
    assert mine.source == "catalog" and mine.last_seq >= 1 and mine.HasField("last_append_time")
    assert answer.log_size >= mine.last_seq


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetEvent", pb.GetEventRequest(name="events/-1")),
        ("GetEvent", pb.GetEventRequest(name="events/01")),
        ("GetEvent", pb.GetEventRequest(name="events/9999999999999999999")),
        ("ListEvents", pb.ListEventsRequest(page_size=-1)),
        ("ListEvents", pb.ListEventsRequest(filter=pb.EventFilter(types=["A"]))),
        ("ListEvents", pb.ListEventsRequest(filter=pb.EventFilter(types=["a"] * 65))),
        ("ListEvents", pb.ListEventsRequest(filter=pb.EventFilter(resource="x" * 513))),
        ("ListProjectEvents", pb.ListProjectEventsRequest(parent="p")),
    ],
)
def test_bad_requests(events, people, method, request_):
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID"):
        getattr(events, method)(request_, metadata=people.root)


def test_bad_page_tokens(events, people, send, project):
    from animus_kit.server.paging import Page

    send(2, project=project)
    request = pb.ListProjectEventsRequest(parent=project, page_size=1)
    page = Page.parse(request)
    for token in ("x", page.token("a"), page.token(-1), page.token(2**63), page.token(1, 2)):
        request.page_token = token
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
            events.ListProjectEvents(request, metadata=people.root)


def test_an_erased_payload_leaves_the_event(events, people, send, project, database):
    import psycopg

    send(project=project)
    request = pb.ListProjectEventsRequest(parent=project)
    (before,) = events.ListProjectEvents(request, metadata=people.root).events
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute("DELETE FROM audit.payloads WHERE index = %s", (before.index,))
    (after,) = events.ListProjectEvents(request, metadata=people.root).events
    assert after.envelope == before.envelope and not after.payload and not after.salt


@pytest.mark.parametrize("field", ["resource", "source", "actor", "request_id"])
def test_a_nul_in_a_filter_is_the_callers_fault(events, people, field):
    with refused("INVALID_ARGUMENT", "VALUE_NOT_STORABLE"):
        events.ListEvents(pb.ListEventsRequest(filter=pb.EventFilter(**{field: "a\0b"})), metadata=people.root)


@pytest.mark.parametrize("seconds", [-(10**12), 10**12, 2**62])
def test_a_time_that_no_calendar_knows(events, people, seconds):
    request = pb.ListEventsRequest()
    request.filter.min_event_time.seconds = seconds
    with refused("INVALID_ARGUMENT", "TIME_INVALID") as refusal:
        events.ListEvents(request, metadata=people.root)
    assert refusal.fields == {"min_event_time"}
