"""Tails: effect and cursor together, in order, once, whatever breaks."""

import queue
import threading
import time

import pytest
import sqlalchemy as sa

from animus_kit.db.tail import Batch, Event, Tail
from animus_kit.documents import event as document
from animus_kit.errors import Unavailable
from animus_kit.testing.schema import create_kit_tables

PACKAGES = ()
GENERATION = "11111111-1111-4111-8111-111111111111"


def made(index, body=None):
    from datetime import UTC, datetime

    payload = document.build_payload("catalog.dataset.created", body or {"n": str(index)})
    salt = bytes(32)
    envelope = document.build_envelope(
        id=f"e{index}", source="catalog", generation=GENERATION, seq=index + 1, event_type="catalog.dataset.created",
        time=datetime.now(UTC), resource=f"projects/p/datasets/d{index}", actor="service/catalog", salt=salt,
        payload=payload, project="projects/p",
    )  # fmt: skip
    return Event(index, envelope, payload, salt)


class Log:
    """A source that breaks when told so, and waits for more at its end."""

    def __init__(self):
        self.events: list[Event] = []
        self.more = threading.Condition()
        self.breaks = queue.SimpleQueue()
        self.reads: list[int] = []
        self._over = False

    def append(self, *events):
        with self.more:
            self.events.extend(events)
            self.more.notify_all()

    def read(self, from_index):
        self.reads.append(from_index)
        self._over = False
        while True:
            if not self.breaks.empty():
                self.breaks.get()
                raise Unavailable("the log restarts")
            with self.more:
                self.more.wait_for(lambda start=from_index: len(self.events) > start or self._over, 0.05)
                if self._over:
                    return
                batch = self.events[from_index : from_index + 10]
            yield Batch(batch, from_index + len(batch))
            from_index += len(batch)

    def cancel(self):
        with self.more:
            self._over = True
            self.more.notify_all()


@pytest.fixture
def db(fresh_database):
    create_kit_tables(fresh_database, "lineage")
    admin = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: __import__("psycopg").connect(fresh_database.admin_dsn)
    )
    with admin.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE lineage.effects (index bigint PRIMARY KEY, n text)")
        conn.exec_driver_sql("GRANT SELECT, INSERT ON lineage.effects TO lineage")
    admin.dispose()
    return fresh_database


def apply(conn, event):
    conn.execute(sa.text("INSERT INTO effects VALUES (:i, :n)"), {"i": event.index, "n": event.body["n"]})


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def effects(engine):
    with engine.connect() as conn:
        return list(conn.execute(sa.text("SELECT index FROM effects ORDER BY index")).scalars())


@pytest.fixture
def tails(db):
    started = []

    def start(log, apply=apply, name="view"):
        tail = Tail(name, db.engine("lineage", 2), log, apply)
        tail.start()
        started.append(tail)
        return tail

    yield start
    for tail in started:
        tail.stop()


def test_events_are_applied_in_order_and_waited_for(db, tails):
    log = Log()
    tail = tails(log)
    log.append(*(made(n) for n in range(25)))
    assert tail.wait_for(24, 10)
    assert tail.next_index == 25
    assert not tail.wait_for(25, 0.01)
    assert effects(db.engine("lineage")) == list(range(25))


def test_a_broken_stream_goes_on_where_it_was(db, tails):
    log = Log()
    tail = tails(log)
    log.append(made(0), made(1))
    assert tail.wait_for(1, 10)
    log.breaks.put(None)
    log.append(made(2))
    assert tail.wait_for(2, 10)
    until(lambda: len(log.reads) == 2)
    assert log.reads[-1] in (2, 3)
    assert effects(db.engine("lineage")) == [0, 1, 2]


def test_a_failing_effect_stops_there_and_keeps_what_was_before(db, tails):
    log = Log()
    broken = threading.Event()
    broken.set()

    def picky(conn, event):
        apply(conn, event)
        if event.index == 3 and broken.is_set():
            raise ValueError("not today")

    tail = tails(log, picky)
    log.append(*(made(n) for n in range(6)))
    assert tail.wait_for(2, 10)
    assert not tail.wait_for(3, 0.3)
    assert effects(db.engine("lineage")) == [0, 1, 2]
    broken.clear()
    assert tail.wait_for(5, 10)
    assert effects(db.engine("lineage")) == list(range(6))


def test_two_replicas_have_each_effect_once(db, tails):
    log, other = Log(), Log()
    one, two = tails(log), tails(other)
    for n in range(0, 60, 3):
        events = [made(n), made(n + 1), made(n + 2)]
        log.append(*events)
        other.append(*events)
    assert one.wait_for(59, 20) and two.wait_for(59, 20)
    assert effects(db.engine("lineage")) == list(range(60))


def test_a_restarted_tail_reads_on_and_a_new_name_reads_again(db, tails):
    log = Log()
    log.append(*(made(n) for n in range(5)))
    first = tails(log)
    assert first.wait_for(4, 10)
    first.stop()
    log.append(made(5))
    assert tails(log).wait_for(5, 10)
    assert log.reads == [0, 5]
    seen = []
    assert tails(log, lambda conn, event: seen.append(event.index), name="another").wait_for(5, 10)
    assert seen == list(range(6))


def test_a_payload_that_is_not_the_envelopes_is_not_applied(db, tails):
    log = Log()
    good = made(0)
    log.append(Event(0, good.envelope, made(0, {"n": "forged"}).payload, good.salt))
    tail = tails(log)
    assert not tail.wait_for(0, 0.3)
    assert effects(db.engine("lineage")) == []


def test_an_erased_payload_is_empty():
    event = made(0)
    assert Event(0, event.envelope, b"", b"").body == {}
    assert (event.type, event.project, event.resource) == (
        "catalog.dataset.created", "projects/p", "projects/p/datasets/d0",
    )  # fmt: skip


def test_stop_is_quick(tails):
    tail = tails(Log())
    started = time.monotonic()
    tail.stop()
    assert time.monotonic() - started < 2
