"""The writer on a real database: forks, gaps, repeats, groups, rivals; and that verify sees what it should."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import ProgrammingError

from animus_audit.domain.errors import GenerationSuperseded, LogUnavailable, SequenceGap, SourceForked, WriterBusy
from animus_audit.domain.merkle import Frontier
from animus_audit.store.tables import metadata
from animus_audit.verify import verify
from animus_audit.writer import Appended, Writer
from animus_kit.clock import SystemClock

from .events import Source


@pytest.fixture
def engine(fresh_database):
    return fresh_database.engine("audit")


@pytest.fixture
def writer(engine):
    writer = Writer(engine, SystemClock(), "w1")
    writer.start()
    yield writer
    writer.stop()
    report = verify(engine)
    assert report.ok, report.problems


def append(writer: Writer, source: Source, events) -> Appended:
    return writer.submit(source.leaves(events)).result(10)


def test_indices_are_dense_over_sources_and_the_head_is_the_tree(writer, engine):
    a, b = Source("catalog"), Source("policy")
    assert append(writer, a, a.next(3)) == Appended(3, 3)
    assert append(writer, b, b.next(2)) == Appended(2, 5)
    assert append(writer, a, a.next(1)) == Appended(4, 6)
    frontier = Frontier()
    with engine.connect() as conn:
        rows = conn.execute(sa.text("SELECT index, leaf_hash FROM events ORDER BY index")).all()
        head = conn.execute(sa.text("SELECT size, root FROM log_head")).one()
    for row in rows:
        frontier.append(row.leaf_hash)
    assert [row.index for row in rows] == list(range(6))
    assert (head.size, head.root) == (6, frontier.root())


def test_a_gap_is_refused_and_says_where(writer):
    source = Source("catalog")
    with pytest.raises(SequenceGap) as gap:
        append(writer, source, [source.make(2)])
    assert gap.value.metadata == {"source": "catalog", "last_seq": "0", "seq": "2"}
    append(writer, source, source.next(2))
    with pytest.raises(SequenceGap) as gap:
        append(writer, source, [source.make(4)])
    assert gap.value.metadata["last_seq"] == "2"
    for seqs in ((3, 5), (3, 3), (4, 3)):
        with pytest.raises(SequenceGap):
            append(writer, source, [source.make(seq) for seq in seqs])


def test_a_true_repeat_is_ok_and_adds_nothing(writer):
    source = Source("catalog")
    events = source.next(5)
    assert append(writer, source, events) == Appended(5, 5)
    assert append(writer, source, events) == Appended(5, 5)
    assert append(writer, source, events[1:3]) == Appended(5, 5)
    # A repeat that goes on: what is new is taken.
    assert append(writer, source, events[3:] + source.next(2)) == Appended(7, 7)


def test_another_body_under_a_known_seq_is_a_fork(writer, engine):
    source = Source("catalog")
    events = source.next(3)
    append(writer, source, events)
    for bad in ([source.make(2)], [events[0], source.make(2), events[2]], [source.make(2), events[2], source.make(4)]):
        with pytest.raises(SourceForked) as forked:
            append(writer, source, bad)
        assert forked.value.metadata == {"source": "catalog", "seq": "2"}
    assert verify(engine).size == 3


def test_all_or_none(writer, engine):
    source = Source("catalog")
    append(writer, source, source.next(2))
    with pytest.raises(SourceForked):
        append(writer, source, [source.make(2), source.make(3), source.make(4)])
    assert verify(engine).size == 2


def test_generations(writer, engine):
    old, new = Source("catalog"), Source("catalog")
    events = old.next(2)
    append(writer, old, events)
    append(writer, new, new.next(1))
    # History may be repeated, not continued.
    assert append(writer, old, events) == Appended(2, 3)
    with pytest.raises(GenerationSuperseded):
        append(writer, old, old.next(1))
    other = Source("policy")
    append(writer, other, other.next(1))
    append(writer, new, new.next(1))
    assert verify(engine).sources == {
        f"catalog/{old.generation}": 2,
        f"catalog/{new.generation}": 2,
        f"policy/{other.generation}": 1,
    }


def test_one_group_holds_many_requests_and_a_bad_one_hurts_nobody(engine):
    writer = Writer(engine, SystemClock(), "w1")
    good, forked, late = Source("catalog"), Source("policy"), Source("lineage")
    first = good.next(2)
    old, young = Source("orchestrator"), Source("orchestrator")
    waiting = [
        (good, first),
        (good, first),
        (forked, forked.next(1)),
        (forked, [forked.make(1)]),
        (late, [late.make(7)]),
        (good, first[1:] + good.next(1)),
        (old, old.next(1)),
        (young, young.next(1)),
        (old, old.next(1)),
    ]
    # All wait before the writer starts, so one transaction takes them.
    results = [writer.submit(source.leaves(events)) for source, events in waiting]
    writer.start()
    outcome = [r.exception(10) or r.result().last_seq for r in results]
    assert outcome[:3] == [2, 2, 1] and outcome[5:8] == [3, 1, 1]
    assert isinstance(outcome[3], SourceForked) and isinstance(outcome[4], SequenceGap)
    assert isinstance(outcome[8], GenerationSuperseded)
    assert {r.result().log_size for r in results if not r.exception()} == {6}
    writer.stop()
    assert verify(engine).ok


def test_eight_sources_at_once_with_two_rival_relays_each(engine):
    """Two replicas of audit write, two relays of each source fight, and repeats fly: nothing lost, doubled, renumbered."""
    writers = [Writer(engine, SystemClock(), f"w{i}") for i in range(2)]
    for writer in writers:
        writer.start()
    sources = [Source(name) for name in "abcdefgh"]
    total = 120
    events = {s.name: s.next(total) for s in sources}

    def relay(source: Source, seed: int) -> None:
        rng = random.Random(seed)
        at = 0
        while at < total:
            count = rng.randint(1, 17)
            start = max(0, at - rng.randint(0, 5))
            try:
                at = append(rng.choice(writers), source, events[source.name][start : at + count]).last_seq
            except SequenceGap as gap:
                at = int(gap.metadata["last_seq"])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda job: relay(*job), [(s, i) for i in range(2) for s in sources]))
    for writer in writers:
        writer.stop()
    report = verify(engine)
    assert report.ok, report.problems
    assert report.size == total * len(sources)
    assert set(report.sources.values()) == {total}


def test_a_stopped_writer_refuses_and_finishes_what_it_took(engine):
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    taken = writer.submit(source.leaves(source.next(10)))
    writer.start()
    writer.stop()
    assert taken.result(0).last_seq == 10
    with pytest.raises(LogUnavailable):
        writer.submit(source.leaves(source.next(1)))


def test_what_waits_is_bounded(engine, monkeypatch):
    monkeypatch.setattr("animus_audit.writer.MAX_WAITING_EVENTS", 5)
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    writer.submit(source.leaves(source.next(5)))
    with pytest.raises(WriterBusy):
        writer.submit(source.leaves(source.next(1)))


def test_a_request_that_breaks_the_transaction_fails_alone(engine, monkeypatch):
    """An error that no rule foresaw rolls the group back; its neighbours are written all the same."""
    writer = Writer(engine, SystemClock(), "w1")
    good, bad = Source("catalog"), Source("policy")
    poisoned = bad.leaves(bad.next(1))
    poisoned[0].resource = "\0"
    results = [
        writer.submit(good.leaves(good.next(2))),
        writer.submit(poisoned),
        writer.submit(good.leaves(good.next(1))),
    ]
    writer.start()
    assert results[0].result(10).last_seq == 2 and results[2].result(10).last_seq == 3
    assert results[1].exception(10) is not None
    writer.stop()
    assert verify(engine).size == 3


def test_a_caller_that_gave_up_before_the_writer_looked_is_left_out(engine):
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    assert writer.submit(source.leaves([source.make(1)])).cancel()
    kept = writer.submit(source.leaves(source.next(1)))
    writer.start()
    assert kept.result(10).last_seq == 1
    writer.stop()


def test_many_requests_do_not_wait_one_by_one_for_a_database_that_is_away():
    tries = []

    def away():
        tries.append(1)
        raise psycopg.OperationalError("connection timed out")

    engine = sa.create_engine("postgresql+psycopg://", creator=away)
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    results = [writer.submit(source.leaves(source.next(1))) for _ in range(50)]
    writer.start()
    assert all(isinstance(result.exception(10), LogUnavailable) for result in results)
    writer.stop()
    assert len(tries) == 2


def test_a_lost_database_is_unavailable_and_comes_back(engine, fresh_database):
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    writer.start()
    append(writer, source, source.next(1))
    with psycopg.connect(fresh_database.admin_dsn) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'audit'")
    results = set()
    following = source.next(1)
    for _ in range(3):
        try:
            results.add(append(writer, source, following).last_seq)
        except LogUnavailable:
            continue
    assert results == {2}
    writer.stop()
    assert verify(engine).size == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET resource = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE payloads SET payload = ''",
        "DELETE FROM payloads",
        "DELETE FROM log_head",
        "INSERT INTO log_head VALUES (2, 0, '', '', '')",
        "DELETE FROM sources",
        "DROP TABLE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
    ],
)
def test_the_runtime_role_can_only_append(engine, statement):
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        with engine.begin() as conn:
            conn.execute(sa.text(statement))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        ("UPDATE events SET envelope = envelope || ' ' WHERE index = 2", "leaf hash"),
        ("UPDATE events SET leaf_hash = sha256('x') WHERE index = 2", "leaf hash"),
        ("UPDATE payloads SET payload = payload || ' ' WHERE index = 2", "payloadDigest"),
        ("UPDATE events SET resource = 'other' WHERE index = 2", "resource is not the envelope's"),
        ("DELETE FROM events WHERE index = 2", "index 2 is followed by 3"),
        ("DELETE FROM events WHERE index = 4", "head says 5"),
        ("UPDATE sources SET last_seq = 9", "ends at seq 5"),
        ("UPDATE log_head SET root = sha256('x')", "root"),
        ("UPDATE log_head SET frontier = frontier || frontier", "frontier"),
        ("UPDATE events SET seq = 50 WHERE index = 4", "seq 4 is followed by 50"),
        ("UPDATE events SET source_id = 99 WHERE index = 1", "unknown source"),
    ],
)
def test_verify_sees_what_an_administrator_changed(fresh_database, engine, tamper, problem):
    writer = Writer(engine, SystemClock(), "w1")
    writer.start()
    source = Source("catalog")
    append(writer, source, source.next(5))
    writer.stop()
    assert verify(engine).ok
    with psycopg.connect(fresh_database.admin_dsn) as admin:
        admin.execute("SET search_path = audit")
        admin.execute(tamper)
    report = verify(engine)
    assert any(problem in p for p in report.problems), report.problems


def test_an_erased_payload_is_counted_and_the_log_holds(fresh_database, engine, writer):
    source = Source("catalog")
    append(writer, source, source.next(3))
    with psycopg.connect(fresh_database.admin_dsn) as admin:
        admin.execute("DELETE FROM audit.payloads WHERE index = 1")
    report = verify(engine)
    assert report.ok and report.erased == 1


def test_verify_of_a_log_that_grows_meanwhile(writer, engine):
    source = Source("catalog")
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            append(writer, source, source.next(5))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        assert all(verify(engine).ok for _ in range(5))
    finally:
        stop.set()
        thread.join()


def test_the_migrations_make_the_tables_that_the_code_knows(engine):
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": False})
        differences = [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]
    assert not differences


def test_a_request_is_kept_whole_across_batches(engine, monkeypatch):
    monkeypatch.setattr("animus_audit.writer.MAX_BATCH_EVENTS", 3)
    writer = Writer(engine, SystemClock(), "w1")
    source = Source("catalog")
    results = [writer.submit(source.leaves(source.next(n))) for n in (2, 2, 5, 1)]
    writer.start()
    assert [r.result(10).last_seq for r in results] == [2, 4, 9, 10]
    writer.stop()
    assert verify(engine).ok
