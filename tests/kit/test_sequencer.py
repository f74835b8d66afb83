"""The outbox and its sequencer: nothing lost, doubled or renumbered, whoever dies."""

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from animus_kit.actor import Actor
from animus_kit.db import outbox
from animus_kit.db.engine import create_engine, transaction
from animus_kit.db.sequencer import Numbered, Sequencer, new_generation
from animus_kit.documents.errors import DocumentError
from animus_kit.documents.event import Envelope, payload_digest
from animus_kit.errors import Aborted, FailedPrecondition, Unavailable
from animus_kit.testing.schema import create_kit_tables

PACKAGES = ()


class SequenceGap(FailedPrecondition):
    reason = "SEQUENCE_GAP"


class SourceForked(Aborted):
    reason = "SOURCE_FORKED"


class Log:
    """Does what audit promises: last + 1 only, true repeats are fine, anything else is refused."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events: dict[str, list[Numbered]] = {}
        self.repeats = 0
        self.fail_next = 0

    def deliver(self, generation, batch):
        with self.lock:
            if self.fail_next:
                self.fail_next -= 1
                raise Unavailable("not now")
            known = self.events.setdefault(generation, [])
            for one in batch:
                if one.seq <= len(known):
                    self.repeats += 1
                    if known[one.seq - 1] != one:
                        raise SourceForked("another body")
                elif one.seq == len(known) + 1:
                    known.append(one)
                else:
                    raise SequenceGap("numbers are missing", metadata={"last_seq": str(len(known))})
            return len(known)

    @property
    def all(self):
        (events,) = self.events.values()
        return events


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture
def db(fresh_database):
    create_kit_tables(fresh_database, "catalog")
    return fresh_database


@pytest.fixture
def run():
    """Starts sequencers that end with the test."""
    started = []

    def start(db, log):
        sequencer = Sequencer(db.dsn("catalog"), "catalog", log)
        sequencer.start()
        started.append(sequencer)
        return sequencer

    yield start
    for sequencer in started:
        sequencer.stop()


def say(conn, number, project="projects/p"):
    actor = Actor("a-" + "0" * 32, "alice@example.org")
    outbox.emit(
        conn, "catalog.dataset.created", project, f"{project}/datasets/d{number}", actor, {"n": str(number)}, "r"
    )


def numbers(events):
    return [int(json.loads(one.payload)["n"]) for one in events]


def test_an_event_is_numbered_and_delivered(db, run):
    log = Log()
    run(db, log)
    with transaction(db.engine("catalog")) as conn:
        say(conn, 1)
    until(lambda: log.events)
    (one,) = log.all
    envelope = Envelope.from_bytes(one.envelope)
    assert (envelope.seq, envelope.source, envelope.actor) == (1, "catalog", "a-" + "0" * 32)
    assert envelope.payload_digest == payload_digest(one.salt, one.payload)
    assert b"alice" not in one.envelope and json.loads(one.payload)["actor"] == "alice@example.org"
    (generation,) = log.events
    assert envelope.generation == generation


def test_a_rolled_back_event_never_was(db, run):
    log = Log()
    engine = db.engine("catalog")
    with pytest.raises(ZeroDivisionError), transaction(engine) as conn:
        say(conn, 1)
        1 / 0  # noqa: B018
    with transaction(engine) as conn:
        say(conn, 2)
    run(db, log)
    until(lambda: log.events)
    assert numbers(log.all) == [2] and log.all[0].seq == 1


def test_what_cannot_stand_in_the_log_fails_its_own_transaction(db):
    with transaction(db.engine("catalog")) as conn:
        for bad in (
            lambda: outbox.emit(conn, "Not A Type", "", "x", "service/catalog", {}),
            lambda: outbox.emit(conn, "catalog.x.created", "", "x y", "service/catalog", {}),
            lambda: outbox.emit(conn, "catalog.x.created", "", "x", "Alice Smith", {}),
            lambda: outbox.emit(conn, "catalog.x.created", "", "x", "service/catalog", {"actor": "somebody else"}),
        ):
            with pytest.raises(DocumentError):
                bad()
        assert conn.execute(sa.text("SELECT count(*) FROM outbox")).scalar_one() == 0


def test_late_commits_are_not_lost(db, run):
    """Ids are drawn before the commit: the lower one may commit later, after the higher one was numbered."""
    log = Log()
    run(db, log)
    engine = db.engine("catalog")
    with transaction(engine) as late:
        say(late, 1)

        def early():
            with transaction(engine) as conn:
                say(conn, 2)

        thread = threading.Thread(target=early)
        thread.start()
        thread.join()
        until(lambda: log.events)
    until(lambda: len(log.all) == 2)
    assert numbers(log.all) == [2, 1]


def test_delivery_is_tried_again_with_the_same_bytes(db, run):
    log = Log()
    log.fail_next = 3
    engine = db.engine("catalog")
    with transaction(engine) as conn:
        for n in range(5):
            say(conn, n)
    run(db, log)
    until(lambda: log.events and len(log.all) == 5)
    assert numbers(log.all) == [0, 1, 2, 3, 4]


def test_a_log_that_went_back_gets_what_it_lost(db, run):
    log = Log()
    run(db, log)
    engine = db.engine("catalog")
    with transaction(engine) as conn:
        for n in range(5):
            say(conn, n)
    until(lambda: log.events and len(log.all) == 5)
    with log.lock:
        del log.all[2:]
    with transaction(engine) as conn:
        say(conn, 5)
    until(lambda: len(log.all) == 6)
    assert numbers(log.all) == [0, 1, 2, 3, 4, 5]


def test_latency_from_commit_to_delivered_is_a_few_milliseconds(db, run):
    log = Log()
    sequencer = run(db, log)
    assert sequencer.holding.wait(10)
    engine = db.engine("catalog")
    took = []
    for n in range(30):
        with transaction(engine) as conn:
            say(conn, n)
        started = time.perf_counter()
        until(lambda n=n: log.events and len(log.all) > n)
        took.append(time.perf_counter() - started)
    assert sorted(took)[15] < 0.05, took


def test_a_sleeping_sequencer_is_woken(db, run):
    log = Log()
    run(db, log)
    engine = db.engine("catalog")
    asleep = sa.text("SELECT sleeping FROM outbox_source")

    def sleeping():
        with transaction(engine) as conn:
            return conn.execute(asleep).scalar_one()

    until(sleeping)
    with transaction(engine) as conn:
        say(conn, 1)
    until(lambda: log.events)


def test_eight_writers_rollbacks_and_two_rivals(db, run):
    """8 concurrent writers, random rollbacks, two sequencers that lose their connections again and again."""
    log = Log()
    rivals = [run(db, log), run(db, log)]
    engine = db.engine("catalog", pool=8)
    committed: list[set[int]] = [set() for _ in range(8)]
    over = threading.Event()

    def write(worker):
        rng = random.Random(worker)
        for n in range(150):
            number = worker * 1000 + n
            try:
                with transaction(engine) as conn:
                    say(conn, number, f"projects/p{worker}")
                    if rng.random() < 0.3:
                        raise ZeroDivisionError
                committed[worker].add(number)
            except ZeroDivisionError:
                pass

    def disturb():
        rng = random.Random(99)
        with psycopg.connect(db.admin_dsn, autocommit=True) as conn:
            while not over.wait(rng.uniform(0.02, 0.08)):
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE 'sequencer%'"
                )

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    over.set()
    disturber.join()
    wanted = set().union(*committed)
    until(lambda: log.events and len(log.all) >= len(wanted), 30)
    delivered = numbers(log.all)
    assert len(delivered) == len(set(delivered)) and set(delivered) == wanted
    assert [one.seq for one in log.all] == list(range(1, len(wanted) + 1))
    for worker in range(8):  # the order of one resource's writer is kept
        mine = [n for n in delivered if n // 1000 == worker]
        assert mine == sorted(mine)
    assert all(not isinstance(rival, str) for rival in rivals)


def _relay(dsn, pipe):
    """A sequencer in a process of its own that tells its deliveries through a pipe."""

    class Through:
        def deliver(self, generation, batch):
            pipe.send((generation, batch))
            return pipe.recv()

    sequencer = Sequencer(dsn, "catalog", Through())
    sequencer.start()
    signal.pause()


def test_a_killed_relay_is_replaced(db, run):
    """SIGKILL at any line: during numbering, between delivery and cursor, in sleep."""
    log = Log()
    engine = db.engine("catalog", pool=4)
    context = multiprocessing.get_context("spawn")
    stop = threading.Event()
    total = 0

    def write():
        nonlocal total
        while not stop.is_set():
            with transaction(engine) as conn:
                say(conn, total)
            total += 1

    writer = threading.Thread(target=write)
    writer.start()
    rng = random.Random(5)
    for _ in range(4):
        ours, theirs = context.Pipe()
        process = context.Process(target=_relay, args=(db.dsn("catalog"), theirs), daemon=True)
        process.start()
        for _ in range(rng.randrange(1, 6)):
            generation, batch = ours.recv()
            answer = log.deliver(generation, batch)
            ours.send(answer)
        ours.recv()  # it has numbered once more; this delivery is lost with it
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    stop.set()
    writer.join()
    run(db, log)
    until(lambda: log.events and len(log.all) == total)
    assert numbers(log.all) == list(range(total))


def test_one_of_two_holds_the_source(db, run):
    first = run(db, Log())
    assert first.holding.wait(10)
    second = run(db, Log())
    assert not second.holding.wait(0.6)
    first.stop()
    assert second.holding.wait(10)


def test_a_restored_database_speaks_under_a_new_generation(db, run):
    log = Log()
    engine = db.engine("catalog")
    first = run(db, log)
    with transaction(engine) as conn:
        say(conn, 1)
    until(lambda: log.events)
    first.stop()
    made = new_generation(db.dsn("catalog"))
    run(db, log)
    with transaction(engine) as conn:
        say(conn, 2)
    until(lambda: len(log.events) == 2)
    until(lambda: numbers(log.events[made]) == [2])
    assert log.events[made][0].seq == 1


def test_what_an_old_generation_cannot_tell_is_told_by_the_new_one(db, run):
    log, away = Log(), Log()
    away.fail_next = 1_000_000
    engine = db.engine("catalog")
    first = run(db, away)
    with transaction(engine) as conn:
        for n in range(3):
            say(conn, n)
    numbered = sa.text("SELECT count(*) FROM outbox WHERE seq IS NOT NULL")

    def counted():
        with transaction(engine) as conn:
            return conn.execute(numbered).scalar_one()

    until(lambda: counted() == 3)
    first.stop()
    with transaction(engine) as conn:  # the log never gets the first one, so the old numbers have a gap
        old = conn.execute(sa.text("DELETE FROM outbox WHERE seq = 1 RETURNING generation::text")).scalar_one()
    made = new_generation(db.dsn("catalog"))
    run(db, log)
    until(lambda: len(log.events.get(made, ())) == 2)
    assert numbers(log.events[made]) == [1, 2] and not log.events[old]


def test_large_payloads_travel_in_parts(db, run):
    log = Log()
    sizes = []
    plain = log.deliver

    def measured(generation, batch):
        sizes.append(sum(len(one.payload) for one in batch))
        return plain(generation, batch)

    log.deliver = measured
    engine = create_engine(db.dsn("catalog"), 1)
    with transaction(engine) as conn:
        for n in range(6):
            outbox.emit(conn, "catalog.x.created", "", "x", "service/catalog", {"n": str(n), "text": "x" * 900_000})
    engine.dispose()
    run(db, log)
    until(lambda: log.events and len(log.all) == 6)
    assert len(sizes) >= 3 and max(sizes) < 3 << 20
