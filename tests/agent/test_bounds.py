"""What an attempt tells stays within what dispatch takes: a row that it refused would be sent again for ever, before the
news of every other attempt on the node."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus_agent.attempt import metrics, running, steps
from animus_agent.attempt.directory import AttemptDirectory
from animus_agent.attempt.failure import CANCELED, PREEMPTED, FailureClass
from animus_agent.attempt.ports import Result
from animus_agent.egress import record
from animus_agent.egress.record import Record
from animus_agent.errors import SpoolUnavailable
from animus_agent.reporter import MAX_REPORT_BYTES, SpoolReporter
from animus_agent.sandbox import logs
from animus_agent.session import Session
from animus_agent.spool import Spool
from animus_agent.testing import MemoryReporter, World
from animus_kit.clock import SystemClock
from animus_kit.documents.sandbox import Egress
from animus_kit.ids import RandomIds
from animus_kit.server.validate import validate

NAME = "projects/p/runs/r/steps/s/attempts/1"


@pytest.fixture
def spool(tmp_path: Path):  # type: ignore[no-untyped-def]
    one = Spool(tmp_path / "spool.db", RandomIds())
    one.accept(NAME, b"")
    yield one
    one.close()


def reporter(spool: Spool) -> SpoolReporter:
    return SpoolReporter(spool, NAME, SystemClock(), lambda state: None)


def told(spool: Spool) -> list[pb.SpoolEvent]:
    return [pb.SpoolEvent.FromString(row.body) for row in spool.after(0, limit=10_000, max_bytes=1 << 30) if row.body]


@pytest.mark.parametrize(
    "text", ["\n", "\n\n \n", '{"name":"a","step":1,"value":2}\n\n', '\n{"name":"a","step":1,"value":2}\n']
)
def test_blank_lines_among_the_points_are_passed_once(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    looks = []
    read = metrics.read_points

    def counted(*arguments, **named):  # type: ignore[no-untyped-def]
        looks.append(arguments)
        assert len(looks) < 10, "it goes on for ever"
        return read(*arguments, **named)

    monkeypatch.setattr(metrics, "read_points", counted)
    monkeypatch.setattr(running, "work_folder", lambda volume: tmp_path)
    ports = SimpleNamespace(reporter=reporter(spool), driver=SimpleNamespace(log_path=lambda _: tmp_path / "none"))
    running.ship(SimpleNamespace(ports=ports, handle=None, volume=object()), final=True)  # type: ignore[arg-type]
    assert spool.cursors(NAME).points_offset == len(text)
    assert sum(len(event.metric_points.points) for event in told(spool)) == text.count("name")


def test_a_torn_line_of_a_log_comes_in_pieces_that_are_taken(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = bytes(range(1, 10)) * 100_000
    path.write_bytes(b"2026-01-01T00:00:00.0Z stdout F before\n" + line + b"\n")
    one = reporter(spool)
    while chunks := logs.read(path, one.log_cursor(), final=True):
        one.log(chunks)
    events = told(spool)
    assert b"".join(event.log_chunk.data for event in events) == b"before\n" + line + b"\n"
    for event in events:
        event.seq = 1
        validate(event)


def test_what_a_way_out_records_fits_into_the_report(tmp_path: Path) -> None:
    allow = tuple(f"{'h' * 240}{number}.example:443" for number in range(256))
    found = Record(tmp_path / "egress.json", SystemClock())
    for host in allow:
        for reason in ("ALLOWED", "CONNECT_FAILED"):
            for start in range(0, 40, 4):
                addresses = [f"2001:db8:{number:x}:ffff:ffff:ffff:ffff:ffff" for number in range(start, start + 4)]
                found.decided(host, True, reason, addresses)
            found.moved(host, reason, 1 << 60, 1 << 60)
    for number in range(1000):
        found.decided(f"{'x' * 200}{number}:1", False, "NOT_IN_CONTRACT")
    document = found.document(allow)
    listed = sum(one.connections for one in document.decisions)
    assert listed + document.unlisted == 256 * 2 * 10 + 1000 and document.unlisted
    assert len(document.to_text().encode()) < MAX_REPORT_BYTES - (16 << 10)
    again = Record(tmp_path / "egress.json", SystemClock())
    assert isinstance(again.document(allow), Egress)
    assert record.MAX_BYTES < MAX_REPORT_BYTES


def test_a_report_that_is_too_large_all_the_same_is_an_end_and_no_silence(spool: Spool) -> None:
    large = Result(None, 0, (), {"a": 1.0}, b"x" * (MAX_REPORT_BYTES + 1), b"statement", 0)
    reporter(spool).result(large)
    (event,) = told(spool)
    assert event.result.reason == "SANDBOX_REPORT_TOO_LARGE" and not event.result.sandbox_report
    assert not event.result.metrics and not event.result.provenance
    event.seq = 1
    validate(event)


def test_a_welcome_whose_acknowledgement_the_disk_refuses_lets_rows_be_sent(spool: Spool) -> None:
    session = Session.__new__(Session)
    session._spool, session._clock, session._interval, session._status_at = spool, SystemClock(), 5.0, 0.0
    session._sent_seq, session._acked_at, session.welcomed = None, float("inf"), False
    session._wake = SimpleNamespace(set=lambda: None)  # type: ignore[assignment]
    reporter(spool).state("RUNNING")

    def full(seq: int) -> None:
        raise SpoolUnavailable("the disk is full")

    spool.acknowledge = full  # type: ignore[method-assign]
    with pytest.raises(SpoolUnavailable):
        session._welcome(pb.Welcome(session=1, acknowledged_seq=1))
    events = session._events()
    assert session.welcomed and events is not None and [event.seq for event in events.events] == [2]


def test_steps_that_broke_off_are_no_success(fake_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told = MemoryReporter()
    attempt = fake_world.attempt(fake_world.order("fake", "exit=0"), told)

    def unreadable(_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(AttemptDirectory, "kill_intent", unreadable)
        with pytest.raises(OSError, match="Input"):
            steps.execute(attempt)
    # As the agent does when an attempt's thread fails.
    steps.report(attempt)
    (result,) = told.results
    assert result.failure is not None
    assert (result.failure.failure_class, result.failure.reason) == (FailureClass.INFRASTRUCTURE, "AGENT_INTERNAL")


def test_of_many_who_end_an_attempt_the_first_is_kept(fake_world: World) -> None:
    for _ in range(20):
        attempt = fake_world.attempt(fake_world.order("fake", "seconds=60"), MemoryReporter())
        failures = [CANCELED, PREEMPTED] * 4
        threads = [threading.Thread(target=attempt.kill, args=(one,)) for one in failures]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert attempt.unwritten is None and attempt.kill_intent() in (CANCELED, PREEMPTED)
