"""Ten denials of a minute singly, the rest with a count."""

from __future__ import annotations

from typing import Any

from animus_kit.actor import Actor
from animus_kit.db import denials as module
from animus_kit.db.denials import Denials
from animus_kit.server.context import CallContext
from animus_kit.testing.clock import FakeClock
from animus_kit.tls import Peer

CTX = CallContext(request_id="r", peer=Peer("gateway", "", ""), method="/s/M", subject="eve", actor=Actor("a-1", "eve"))


def test_the_rest_of_a_minute_is_one_event(monkeypatch: Any) -> None:
    written: list[Any] = []
    monkeypatch.setattr(module.outbox, "emit_many", lambda conn, events: written.extend(events))

    class Transaction:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(module, "transaction", lambda engine: Transaction())
    clock = FakeClock()
    sink = Denials(None, "catalog", clock)  # type: ignore[arg-type]
    for _ in range(25):
        sink.record(CTX, "catalog.datasets.get", "projects/p")
    assert [event.payload.get("count") for event in written] == [None] * 10
    clock.advance(61)
    sink.record(CTX, "catalog.datasets.get", "projects/p")
    assert [event.payload.get("count") for event in written[10:]] == [15, None]
    assert {event.event_type for event in written} == {"catalog.access.denied"}
