"""Denials become events, and cannot fill the log."""

import json

import pytest
import sqlalchemy as sa

from animus_kit.actor import Actor
from animus_kit.db.denials import Denials
from animus_kit.errors import Aborted, InvalidArgument, PermissionDenied, ResourceExhausted, Unavailable
from animus_kit.server.context import CallContext
from animus_kit.server.door import Door
from animus_kit.testing.schema import create_kit_tables
from animus_kit.tls import Peer

PACKAGES = ()


@pytest.fixture
def engine(fresh_database):
    create_kit_tables(fresh_database, "catalog")
    return fresh_database.engine("catalog")


def context(subject="alice"):
    return CallContext(
        request_id="r", peer=Peer("gateway", "", "spiffe://animus.local/gateway"), method="/a.B/C", subject=subject,
        actor=Actor("a-" + "1" * 32, subject),
    )  # fmt: skip


def told(engine):
    with engine.connect() as conn:
        rows = conn.execute(sa.text("SELECT event_type, project, resource, payload FROM outbox ORDER BY id")).all()
    return [(row.event_type, row.project, row.resource, json.loads(bytes(row.payload))) for row in rows]


def test_ten_singly_and_then_a_count(engine, clock):
    denials = Denials(engine, "catalog", clock)
    for _ in range(25):
        denials.record(context(), "catalog.datasets.create", "projects/p")
    assert len(told(engine)) == 10
    clock.advance(61)
    denials.flush()
    events = told(engine)
    assert len(events) == 11 and "count" not in events[0][3]
    assert events[0][:3] == ("catalog.access.denied", "projects/p", "projects/p")
    assert events[10][3]["count"] == 15 and events[10][3]["actor"] == "alice"
    assert events[0][3]["permission"] == "catalog.datasets.create"


def test_others_are_counted_apart_and_a_new_minute_starts_over(engine, clock):
    denials = Denials(engine, "catalog", clock)
    for _ in range(10):
        denials.record(context(), "x.y", "projects/p")
    denials.record(context("bob"), "x.y", "projects/p")
    denials.record(context(), "x.y", "projects/p", "ANOTHER_REASON")
    assert len(told(engine)) == 12
    clock.advance(61)
    denials.record(context(), "x.y", "projects/p")
    assert len(told(engine)) == 13


def test_made_up_projects_are_counted_together(engine, clock):
    denials = Denials(engine, "catalog", clock)
    for number in range(50):
        denials.record(context(), "x.y", f"projects/p{number}")
    assert [project for _, project, _, _ in told(engine)] == [f"projects/p{number}" for number in range(10)]
    clock.advance(61)
    denials.flush()
    *_, (_, project, _, payload) = told(engine)
    assert len(told(engine)) == 11 and project == "projects/p49" and payload["count"] == 40


def test_stop_tells_what_is_still_counted(engine, clock):
    denials = Denials(engine, "catalog", clock)
    denials.start()
    for _ in range(12):
        denials.record(context(), "x.y", "projects/p")
    denials.stop()
    assert told(engine)[-1][3]["count"] == 2


def test_a_broken_database_does_not_turn_a_denial_into_an_error(engine, clock):
    engine.dispose()
    broken = sa.create_engine("postgresql+psycopg://", creator=lambda: 1 / 0)
    Denials(broken, "catalog", clock).record(context(), "x.y", "projects/p")


def test_what_a_node_is_refused_for_is_told_and_what_befalls_it_is_not(engine, clock):
    door = Door("catalog", "animus.local", {}, denials=Denials(engine, "catalog", clock))
    node = CallContext(
        request_id="r", peer=Peer("agent", "node-1", "spiffe://animus.local/agent/node-1"), method="/a.B/C",
        actor=Actor("agent/node-1"),
    )  # fmt: skip
    service = CallContext(request_id="r", peer=Peer("service", "audit", "spiffe://x"), method="/a.B/C")
    for error in (
        Unavailable("away"),
        Aborted("another session"),
        ResourceExhausted("busy", retry_after=1.0),
        RuntimeError("ours"),
    ):
        door.note(node, error)
    door.note(service, PermissionDenied("no"))
    door.note(None, PermissionDenied("no"))
    Door("catalog", "animus.local", {}).note(node, PermissionDenied("no"))
    assert told(engine) == []
    for error in (PermissionDenied("no"), InvalidArgument("what?"), ResourceExhausted("more than was granted")):
        door.note(node, error)
    found = [payload for _, _, _, payload in told(engine)]
    assert [payload["reason"] for payload in found] == [
        PermissionDenied.reason, InvalidArgument.reason, ResourceExhausted.reason
    ]  # fmt: skip
    assert {payload["peer"] for payload in found} == {"agent/node-1"}
