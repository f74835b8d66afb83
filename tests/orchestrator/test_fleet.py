"""The rooms that are kept from batch to batch are those that would be computed anew."""

from __future__ import annotations

import random
from datetime import timedelta

from animus_kit.testing.clock import FakeClock
from animus_orchestrator.dispatch.fleet import REVIEW_SECONDS, Fleet
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.quota import Amount
from animus_orchestrator.domain.scheduler import Gpu, Need, Room


def session(name: str, cpu: int = 100, stated: int | None = None) -> SessionState:
    made = SessionState(
        agent=Agent(name, "a", labels={"zone": "x"}), spool_id="", attestation_key=b"", size=Amount(cpu, 100, 1),
        gpu_models={"u1": "L4"},
    )  # fmt: skip
    if stated is not None:
        made.stated = Room(name, "a", 4, stated, 100, (Gpu("u1", "L4"),))
    return made


def fleet() -> tuple[Fleet, FakeClock]:
    clock = FakeClock()
    return Fleet(clock, timedelta(seconds=60)), clock


def test_what_is_kept_is_what_would_be_computed_anew():
    chance = random.Random(11)
    it, _ = fleet()
    sessions = {f"n{i}": session(f"n{i}", stated=chance.randrange(100)) for i in range(12)}
    for turn in range(300):
        name = chance.choice(sorted(sessions))
        one = sessions[name]
        match chance.randrange(7):
            case 0:
                one.stated = Room(name, "a", chance.randrange(3), chance.randrange(100), 100)
            case 1:
                one.given[f"a{turn}"] = Size(chance.randrange(20), 1)
            case 2:
                one.given.clear()
            case 3:
                one.unschedulable = chance.choice(["", "CORDONED"])
            case 4:
                it.leave(one)
                sessions[name] = session(name, stated=chance.randrange(100))
            case 5:  # a placement that came to nothing
                found = it.offer(list(sessions.values())).best(Need(1, "p", "a", 1, 1))
                if found is not None:
                    it.offer(list(sessions.values())).remove(found.agent)
                    it.forget([found.agent])
            case 6:
                it.reset()
        one.version += 1
        some = chance.sample(sorted(sessions), chance.randrange(1, 12))
        for asked in (list(sessions.values()), [sessions[s] for s in some]):
            fresh = {s.agent.id: room for s in asked if (room := s.room()) is not None}
            assert {r.agent: r for r in it.offer(asked)} == fresh
        assert it.total == Amount(1200, 1200, 12)


def test_a_node_that_is_kept_free_takes_only_what_fits_beside():
    it, clock = fleet()
    one, two = session("n1", stated=30), session("n2", cpu=40, stated=40)
    one.sizes = {"old": Size(70, 0)}
    one.listed = {"old"}
    large = Need(7, "p", "a", 80, 10)
    assert it.review_due([one, two]) is False, "nobody is known yet"
    it.offer([one, two])
    assert it.review_due([one, two]) and not it.review_due([one, two])
    it.review([one, two], {7}, [large])
    assert set(it.reservations) == {"n1"}, "the other could never hold it"
    assert it.offer([one, two]).get("n1").cpu_millis == 20
    assert it.offer([one, two]).get("n2").cpu_millis == 40
    one.given["new"] = Size(15, 0)
    one.version += 1
    assert it.offer([one, two]).get("n1").cpu_millis == 5
    # What it waited for ends; the step gets all that is free, others what is left beside it.
    one.released = {"old": one.sizes["old"]}
    one.version += 1
    assert it.reserved([one, two])[7].cpu_millis == 85
    assert it.offer([one, two]).get("n1").cpu_millis == 5
    it.leased({7})
    assert it.offer([one, two]).get("n1").cpu_millis == 85 and not it.reservations


def test_a_reservation_ends_with_its_step_its_node_or_its_session():
    for change in ("step", "node", "session"):
        it, clock = fleet()
        one, two = session("n1", stated=10), session("n2", stated=10)
        it.offer([one, two])
        it.review([one, two], {7}, [Need(7, "p", "a", 80, 10)])
        (reserved,) = it.reservations
        clock.advance(REVIEW_SECONDS)
        assert it.review_due([one, two])
        waiting = set() if change == "step" else {7}
        if change == "node":
            (one if reserved == "n1" else two).unschedulable = "CORDONED"
        asked = [s for s in (one, two) if change != "session" or s.agent.id != reserved]
        it.review(asked, waiting, [])
        assert not it.reservations
