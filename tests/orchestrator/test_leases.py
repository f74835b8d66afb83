"""Two dispatch processes and eight threads want the same steps: each is leased once, and committed once."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_kit import pki
from animus_kit.clock import SystemClock
from animus_kit.db.engine import transaction
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract
from animus_kit.ids import RandomIds
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.reaper import Reaper
from animus_orchestrator.dispatch.work import Close, EventsWork, Look, Open, StatusWork
from animus_orchestrator.dispatch.writer import Limits, Writer
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store import queue
from tests.orchestrator.agents import CAPABILITIES, Agent
from tests.orchestrator.samples import pipeline, step_yaml
from tests.orchestrator.world import until

STATE = run_pb2.Attempt.State
LIMITS = Limits(lease=timedelta(seconds=60))


def writer(world) -> Writer:
    contracts = Contracts(world.pki.contract, RandomIds(), LIMITS.agent_lease)
    return Writer(world.engine, contracts, SystemClock(), LIMITS)


def enrolled(world, project: str) -> SimpleNamespace:
    """An agent that has never been on a wire."""
    name, key = f"n{uuid.uuid4().hex[:8]}", pki.new_signing_key()
    now = world.parts.clock.now()
    with transaction(world.engine) as conn:
        agent_store.insert(
            conn,
            {
                "id": name,
                "pool": "default",
                "projects": [project.removeprefix("projects/")],
                "attestation_key": pki.raw_public_key(key.public_key()),
                "attestation_certificate": b"",
                "attestation_not_after": now + timedelta(days=1),
                "serial": "1",
                "certificate": b"",
                "certificate_expire_time": now,
                "enroll_time": now,
            },
        )
    return SimpleNamespace(name=name, attestation=key, spool=str(uuid.uuid4()), instance=str(uuid.uuid4()), seq=0)


def hello(one: SimpleNamespace, slots: int) -> Open:
    node = {
        "platform": "linux/amd64", "cpu_millis": 64_000, "memory_bytes": 1 << 40,
        "capabilities": [{"name": c, "available": True} for c in CAPABILITIES],
    }  # fmt: skip
    room = {"attempts": slots, "cpu_millis": 64000, "memory_bytes": 1 << 40}
    status = pb.Status(sequence=1, room=room)
    status.client_time.GetCurrentTime()
    return Open(one.name, "1", pb.Hello(instance_id=one.instance, spool_id=one.spool, node=node, status=status))


def many_steps(world, project: str, count: int) -> str:
    document = pipeline(*(step_yaml(f"s{i}", cpu="10m", memory="1Mi") for i in range(count)))
    return world.submit(project, document, bindings=run_pb2.Bindings()).name


def leased(world, run: str) -> list[tuple[str, str]]:
    with world.engine.connect() as conn:
        query = sa.text(
            "SELECT a.name, a.agent FROM attempts a JOIN runs r ON r.uid = a.run_uid WHERE r.project = :p AND r.id = :i"
        )
        return [tuple(r) for r in conn.execute(query, {"p": run.split("/")[1], "i": run.rsplit("/", 1)[1]})]


def test_eight_threads_lease_each_step_once_and_commit_it_once(world, project):
    run = many_steps(world, project, 40)
    agents = [enrolled(world, project) for _ in range(8)]
    failures: list[BaseException] = []
    true_results = Agent(world, enroll=False)
    end = time.monotonic() + 60

    def work(one: SimpleNamespace) -> None:
        try:
            mine = writer(world)
            (opened,) = mine.apply([hello(one, 2)])
            directive = opened.directive
            idle = 0
            # Whoever finds the run locked gets nothing in that round, and that may happen many times in a row.
            while idle < 3 or (world.state(run) != "SUCCEEDED" and time.monotonic() < end):
                events = []
                for assignment in directive.assignments:
                    contract = Contract.from_bytes(dsse.open_unverified(assignment.contract, "contract")[0])
                    result = true_results.result(assignment.attempt, contract=contract, key=one.attestation)
                    one.seq += 1
                    events.append(pb.SpoolEvent(seq=one.seq, attempt=assignment.attempt, result=result))
                if events:
                    idle = 0
                    answers = mine.apply([EventsWork(opened.session, pb.Events(spool_id=one.spool, events=events))])
                    assert not isinstance(answers[0], Exception), answers[0]
                else:
                    idle += 1
                status = pb.Status(sequence=2, room=pb.Room(attempts=2, cpu_millis=64000, memory_bytes=1 << 40))
                status.client_time.GetCurrentTime()
                (directive,) = mine.apply([StatusWork(opened.session, status)])
                assert not isinstance(directive, Exception), directive
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures
    assert world.state(run) == "SUCCEEDED"
    names = Counter(name for name, _ in leased(world, run))
    assert len(names) == 40 and set(names.values()) == {1}
    assert all(name.endswith("/attempts/1") for name in names)


def test_a_batch_of_many_agents_is_one_transaction(world, project):
    run = many_steps(world, project, 12)
    agents = [enrolled(world, project) for _ in range(6)]
    answers = writer(world).apply([hello(one, 2) for one in agents])
    given = [a.attempt for opened in answers for a in opened.directive.assignments]
    assert len(given) == len(set(given)) == 12
    assert Counter(agent for _, agent in leased(world, run)) == {one.name: 2 for one in agents}
    with world.engine.connect() as conn:
        written = conn.execute(
            sa.text("SELECT count(DISTINCT xmin::text) FROM attempts WHERE name = ANY(:n)"), {"n": given}
        ).scalar_one()
    assert written == 1


def test_a_push_and_a_repeated_assignment_lend_no_more_than_is_left(world, project):
    """Otherwise an agent would go on after the step was given to another."""
    many_steps(world, project, 2)
    one, mine = enrolled(world, project), writer(world)
    (opened,) = mine.apply([hello(one, 2)])
    first, second = sorted(a.attempt for a in opened.directive.assignments)
    status = pb.Status(sequence=2, held=[pb.HeldAttempt(attempt=first, state=STATE.STATE_PREPARING)])
    status.client_time.GetCurrentTime()
    mine.apply([StatusWork(opened.session, status)])

    def told(left: float) -> list[float]:
        with world.engine.begin() as conn:
            query = sa.text("UPDATE attempts SET lease_until = now() + make_interval(secs => :l) WHERE name = ANY(:n)")
            conn.execute(query, {"l": left, "n": [first, second]})
        (pushed,) = mine.apply([Look((opened.session,))])
        directive = pushed[one.name]
        every = [*directive.attempts, *directive.assignments]
        return [one.lease_duration.ToTimedelta().total_seconds() for one in every]

    margin = LIMITS.lease_margin.total_seconds()
    left = told(margin + 10)
    assert len(left) == 2 and all(0 < seconds <= 10 for seconds in left)
    # Kept without a longer lease; what nobody could hold any more is not assigned.
    assert told(margin - 1) == [0]


def test_a_look_for_work_costs_the_others_nothing_while_there_is_none(world, project):
    """It names every session of the process; beside one Status each of them would be read and weighed."""
    agents, mine = [enrolled(world, project) for _ in range(3)], writer(world)
    sessions = [opened.session for opened in mine.apply([hello(one, 1) for one in agents])]
    status = pb.Status(sequence=2, room={"attempts": 1})
    status.client_time.GetCurrentTime()
    asked = []
    looked_at = agent_store.sessions

    def noted(conn, ids, *, hold):
        asked.append(sorted(ids))
        return looked_at(conn, ids, hold=hold)

    look = Look(tuple(sessions), only_work=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_store, "sessions", noted)
        patch.setattr(queue, "any_ready", lambda conn: False)  # what other tests have left
        found, directive, again = mine.apply([look, StatusWork(sessions[1], status), look])
        assert (found, again) == ({}, {}) and directive.status_sequence == 2
        assert asked == [[agents[1].name]]
    many_steps(world, project, 2)
    found, directive = mine.apply([look, StatusWork(sessions[1], status)])
    given = [*(a.attempt for one in found.values() for a in one.assignments)]
    assert len(set(given) | {a.attempt for a in directive.assignments}) == 2


def test_a_status_from_before_an_attempt_began_disowns_nothing(world, project):
    """One batch may hold a Status and what the agent told right after it, and does not keep their order."""
    run = many_steps(world, project, 1)
    one, mine = enrolled(world, project), writer(world)
    (opened,) = mine.apply([hello(one, 1)])
    (given,) = (a.attempt for a in opened.directive.assignments)
    began = pb.SpoolEvent(seq=1, attempt=given, state_changed=pb.StateChanged(state=STATE.STATE_RUNNING))
    before = pb.Status(sequence=2)
    before.client_time.GetCurrentTime()
    mine.apply(
        [
            StatusWork(opened.session, before),
            EventsWork(opened.session, pb.Events(spool_id=one.spool, events=[began])),
        ]
    )

    def state() -> str:
        with world.engine.connect() as conn:
            return conn.execute(sa.text("SELECT state FROM attempts WHERE name = :n"), {"n": given}).scalar_one()

    assert state() == "RUNNING" and world.state(run) == "RUNNING"
    after = pb.Status(sequence=3)
    after.client_time.GetCurrentTime()
    mine.apply([StatusWork(opened.session, after)])
    assert state() != "RUNNING"


def test_a_batch_that_fails_leaves_sessions_as_they_were(world, project, monkeypatch):
    many_steps(world, project, 2)
    one = enrolled(world, project)
    mine = writer(world)
    (opened,) = mine.apply([hello(one, 0)])
    status = pb.Status(sequence=2, room=pb.Room(attempts=2, cpu_millis=64000, memory_bytes=1 << 40))
    status.client_time.GetCurrentTime()

    def broken(*_, **__):
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr("animus_orchestrator.dispatch.directives.make", broken)
        try:
            mine.apply([StatusWork(opened.session, status)])
        except RuntimeError:
            pass
    assert not opened.session.given and opened.session.stated.attempts == 0
    (directive,) = mine.apply([StatusWork(opened.session, status)])
    assert len(directive.assignments) == 2


def test_the_reaper_spares_leases_that_ran_out_while_nobody_served(world, project):
    run = many_steps(world, project, 1)
    one = enrolled(world, project)
    writer(world).apply([hello(one, 1)])
    (held,) = leased(world, run)
    with world.engine.begin() as conn:
        conn.execute(sa.text("UPDATE dispatch_alive SET at = now() - interval '1 hour'"))
    reaper = Reaper(world.engine, world.parts.clock, timedelta(seconds=60), timedelta(seconds=60))
    with transaction(world.engine) as conn:
        reaper._note_alive(conn)
    assert reaper._spare_until > world.parts.clock.monotonic() + 50
    with world.engine.connect() as conn:
        state = conn.execute(sa.text("SELECT state FROM attempts WHERE name = :n"), {"n": held[0]}).scalar_one()
    assert state == "LEASED"


def test_a_session_that_ends_behind_its_last_status_is_closed(world, project):
    one = enrolled(world, project)
    mine = writer(world)
    (opened,) = mine.apply([hello(one, 1)])
    status = pb.Status(sequence=2)
    status.client_time.GetCurrentTime()
    mine.apply([StatusWork(opened.session, status), Close(opened.session)])
    with transaction(world.engine) as conn:
        assert not agent_store.get(conn, one.name).agent.session_open


def test_what_was_lost_before_it_was_listed_takes_room_until_the_agent_has_spoken(world, project):
    """Its assignment may have arrived late, and stand still on the node without a lease."""
    many_steps(world, project, 2)
    mine, one = writer(world), enrolled(world, project)
    (opened,) = mine.apply([hello(one, 1)])
    (given,) = opened.directive.assignments
    with transaction(world.engine) as conn:
        passed = sa.text("UPDATE attempts SET lease_until = now() - interval '1 s' WHERE name = :name")
        conn.execute(passed, {"name": given.attempt})
    reaper = Reaper(world.engine, SystemClock(), LIMITS.lease, LIMITS.lease)

    def lost() -> bool:
        reaper.tick()
        with world.engine.connect() as conn:
            query = sa.text("SELECT state FROM attempts WHERE name = :name")
            return conn.execute(query, {"name": given.attempt}).scalar_one() == "LOST"

    until(lost)
    for _ in range(2):
        (looked,) = mine.apply([Look((opened.session,))])
        assert not looked[one.name].assignments
    status = pb.Status(sequence=2, room=pb.Room(attempts=1, cpu_millis=64000, memory_bytes=1 << 40))
    status.client_time.GetCurrentTime()
    (directive,) = mine.apply([StatusWork(opened.session, status)])
    (again,) = directive.assignments
    assert again.attempt != given.attempt
