"""The queue's rules, pure: which step fits where, the index of rooms, fairness, what keeps large steps from starving."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animus_orchestrator.domain.quota import Amount, Limits, Standing, exceeded, never_allowed
from animus_orchestrator.domain.reservations import Node, Reservation, beside, reserve
from animus_orchestrator.domain.rooms import Rooms
from animus_orchestrator.domain.scheduler import Gpu, Need, Placement, Room, best, obstacle, take
from animus_orchestrator.domain.sharing import Waiting, distribute

NEED = Need(1, "p", "default", 1000, 100, 1, "H200", "linux/amd64", frozenset({"network-none"}), frozenset({"zone=a"}))
ROOM = Room(
    "n1", "default", 2, 2000, 200, (Gpu("u1", "H200"), Gpu("u2", "L4")), frozenset(), "linux/amd64",
    frozenset({"network-none"}), frozenset({"zone=a", "disk=fast"}), True,
)  # fmt: skip
THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pool": "gpu"}, "POOL"),
        ({"projects": frozenset({"q"})}, "PROJECT"),
        ({"labels": frozenset({"zone=b"})}, "LABELS"),
        ({"platform": "linux/arm64"}, "PLATFORM"),
        ({"capabilities": frozenset()}, "CAPABILITY"),
        ({"attempts": 0}, "ATTEMPTS"),
        ({"cpu_millis": 999}, "CPU"),
        ({"memory_bytes": 99}, "MEMORY"),
        ({"gpus": (Gpu("u2", "L4"),)}, "GPU"),
    ],
)
def test_each_obstacle_is_told(change, reason):
    assert obstacle(NEED, ROOM) is None
    assert obstacle(NEED, replace(ROOM, **change)).reason == reason


# -- the index of rooms -------------------------------------------------------------------------------------------------

ROOMS = st.builds(
    Room,
    agent=st.integers(0, 30).map(lambda i: f"n{i}"),
    pool=st.sampled_from(["a", "b"]),
    attempts=st.integers(0, 2),
    cpu_millis=st.integers(0, 9),
    memory_bytes=st.integers(0, 9),
    gpus=st.sampled_from([(), (Gpu("u1", "L4"),), (Gpu("u1", "L4"), Gpu("u2", "NVIDIA H200"))]),
    projects=st.sampled_from([frozenset(), frozenset({"p"}), frozenset({"q"})]),
    labels=st.sampled_from([frozenset(), frozenset({"zone=a"})]),
    accelerated=st.booleans(),
)
NEEDS = st.builds(
    Need,
    step_uid=st.integers(0, 9),
    project=st.sampled_from(["p", "q"]),
    pool=st.sampled_from(["a", "b"]),
    cpu_millis=st.integers(0, 9),
    memory_bytes=st.integers(0, 9),
    gpus=st.sampled_from([0, 0, 1, 2]),
    gpu_model=st.sampled_from(["", "H200"]),
    selector=st.sampled_from([frozenset(), frozenset({"zone=a"})]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(ROOMS, NEEDS, st.integers(0, 30)), max_size=80))
def test_the_index_finds_as_good_a_room_as_looking_at_all_of_them(doings):
    """Rooms come, change, go and are taken, in any order."""
    index, all_rooms = Rooms(), {}
    for doing in doings:
        if isinstance(doing, Room):
            index.put(doing)
            all_rooms[doing.agent] = doing
        elif isinstance(doing, int):
            index.remove(f"n{doing}")
            all_rooms.pop(f"n{doing}", None)
        else:
            found, naive = index.best(doing), best(doing, all_rooms.values())
            assert (found is None) == (naive is None)
            if found is not None:
                assert obstacle(doing, found) is None
                assert found.cpu_millis == naive.cpu_millis
                assert doing.gpus or found.accelerated == naive.accelerated
                left, _ = take(doing, found)
                index.put(left)
                all_rooms[left.agent] = left
        assert len(index) == len(all_rooms)
        assert {r.agent: r for r in index} == all_rooms
    reach = index.reach()
    assert reach.cpu_millis == max((r.cpu_millis for r in all_rooms.values() if r.attempts), default=-1)
    assert reach.pools == {r.pool for r in all_rooms.values()}


def test_finding_a_room_among_five_thousand_looks_at_few(monkeypatch):
    """Counted, not timed: how many rooms are compared with the step."""
    from animus_orchestrator.domain import rooms as module

    chance = random.Random(7)
    index = Rooms(Room(f"n{i}", "a", 1, chance.randrange(64_000), chance.randrange(1 << 38)) for i in range(5000))
    looked = Counter()

    def counted(need, room):
        looked["rooms"] += 1
        return original(need, room)

    original = module.not_now
    monkeypatch.setattr(module, "not_now", counted)
    for i in range(1000):
        need = Need(i, "p", "a", chance.randrange(8000), chance.randrange(1 << 36))
        room = index.best(need)
        assert room is not None
        index.put(take(need, room)[0])
    assert looked["rooms"] < 10 * 1000


def test_a_step_without_gpus_goes_to_a_node_with_gpus_only_if_no_other_can_take_it():
    plain, gpus = Room("cpu", "a", 1, 10, 10), Room("gpu", "a", 1, 99, 99, (Gpu("u1"),), accelerated=True)
    index = Rooms([plain, gpus])
    assert index.best(Need(1, "p", "a", 5, 5)).agent == "cpu"
    assert index.best(Need(1, "p", "a", 50, 5)).agent == "gpu"
    assert index.best(Need(1, "p", "a", 5, 5, 1)).agent == "gpu"


# -- fairness -----------------------------------------------------------------------------------------------------------


def queue(project: str, count: int, cpu: int = 1, memory: int = 1, first: int = 0, **kw) -> list[Waiting]:
    return [
        Waiting(Need(first + i, project, "a", cpu, memory, **kw), THEN + timedelta(seconds=first + i))
        for i in range(count)
    ]


def share_out(waiting, standings, rooms, limit=10_000, reserved=None) -> list[Placement]:
    rooms = list(rooms)
    total = Amount(sum(r.cpu_millis for r in rooms), sum(r.memory_bytes for r in rooms), 0)
    standings = {p: standings.get(p, Standing()) for p in waiting}
    return distribute(waiting, standings, total, Rooms(rooms), limit, reserved)


def of(project: str, placed, waiting) -> int:
    mine = {w.need.step_uid for w in waiting[project]}
    return sum(p.step_uid in mine for p in placed)


def test_dominant_shares_are_evened_out_as_in_the_paper():
    """The example of Ghodsi and others: 9 cpu, 18 GB; A wants <1, 4>, B wants <3, 1>: A gets 3, B gets 2."""
    waiting = {"a": queue("a", 20, 1, 4), "b": queue("b", 20, 3, 1, first=100)}
    placed = share_out(waiting, {}, [Room("n1", "a", 100, 9, 18)])
    assert (of("a", placed, waiting), of("b", placed, waiting)) == (3, 2)


def test_shares_follow_the_weights():
    waiting = {"a": queue("a", 100), "b": queue("b", 100, first=1000)}
    placed = share_out(waiting, {"a": Standing(3), "b": Standing(1)}, [Room("n1", "a", 100, 40, 40)])
    assert (of("a", placed, waiting), of("b", placed, waiting)) == (30, 10)


def test_what_is_in_use_counts():
    waiting = {"a": queue("a", 100), "b": queue("b", 100, first=1000)}
    standings = {"a": Standing(used=Amount(10, 10, 0)), "b": Standing()}
    placed = share_out(waiting, standings, [Room("n1", "a", 100, 20, 20)])
    assert (of("a", placed, waiting), of("b", placed, waiting)) == (5, 15)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(
            st.integers(1, 5),
            st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=15),
            st.none() | st.integers(0, 8),
        ),
        min_size=1,
    ),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 8)), max_size=5),
)
def test_nothing_is_overfilled_doubled_beyond_a_quota_or_left_unused(projects, sizes):
    uid = iter(range(10_000))
    waiting = {
        p: [Waiting(Need(next(uid), p, "a", cpu, memory), THEN) for cpu, memory in steps]
        for p, (_, steps, _) in projects.items()
    }
    standings = {p: Standing(w, limits=Limits(cpu_millis=limit)) for p, (w, _, limit) in projects.items()}
    offered = {f"n{i}": Room(f"n{i}", "a", *size) for i, size in enumerate(sizes)}
    needs = {w.need.step_uid: w.need for queue in waiting.values() for w in queue}
    rooms = Rooms(offered.values())
    placed = distribute(waiting, standings, Amount(40, 40, 0), rooms, 10_000)
    assert len({p.step_uid for p in placed}) == len(placed)
    for name, room in offered.items():
        mine = [needs[p.step_uid] for p in placed if p.agent == name]
        assert len(mine) <= room.attempts
        assert sum(n.cpu_millis for n in mine) <= room.cpu_millis
        assert sum(n.memory_bytes for n in mine) <= room.memory_bytes
    used = {p: sum(needs[x.step_uid].cpu_millis for x in placed if needs[x.step_uid].project == p) for p in waiting}
    for project, standing in standings.items():
        assert standing.limits.cpu_millis is None or used[project] <= standing.limits.cpu_millis
    # Work-conserving: what was left behind fits nowhere, or is beyond its quota.
    for uid_, need in needs.items():
        if uid_ not in {p.step_uid for p in placed}:
            over = exceeded(standings[need.project].limits, Amount(used[need.project], 0, 0), need)
            assert over is not None or best(need, rooms) is None


@settings(max_examples=15, deadline=None)
@given(
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 1 << 30),
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
)
def test_with_everybody_waiting_shares_go_towards_the_weights_and_nobody_starves(weights, seed, sizes):
    """Steps end at random; each project always has more. The share over time is the weight's."""
    chance, total = random.Random(seed), 60
    names = [f"p{i}" for i in range(len(weights))]
    running: list[tuple[str, int]] = []
    had: Counter[str] = Counter()
    uid = iter(range(1 << 30))
    for turn in range(120):
        used = Counter()
        for project, cpu in running:
            used[project] += cpu
        waiting = {
            p: [
                Waiting(Need(next(uid), p, "a", sizes[i % len(sizes)], 0), THEN + timedelta(seconds=turn))
                for _ in range(60)
            ]
            for i, p in enumerate(names)
        }
        standings = {p: Standing(w, Amount(used[p], 0, 0)) for p, w in zip(names, weights, strict=True)}
        rooms = Rooms([Room("n", "a", 1000, total - sum(used.values()), 0)])
        needs = {w.need.step_uid: w.need for queue in waiting.values() for w in queue}
        for p in distribute(waiting, standings, Amount(total, 0, 0), rooms, 1000):
            running.append((needs[p.step_uid].project, needs[p.step_uid].cpu_millis))
        for project, cpu in running:
            had[project] += cpu
        chance.shuffle(running)
        running = running[: len(running) // 2]
    whole = sum(had.values())
    for project, weight in zip(names, weights, strict=True):
        assert abs(had[project] / whole - weight / sum(weights)) < 0.12, (had, weights)


# -- large steps ----------------------------------------------------------------------------------------------------------


def test_a_step_that_fits_nowhere_lets_those_behind_it_pass():
    waiting = {"a": [*queue("a", 1, cpu=100), *queue("a", 3, first=10)]}
    placed = share_out(waiting, {}, [Room("n1", "a", 9, 10, 10)])
    assert [p.step_uid for p in placed] == [10, 11, 12]


def test_a_step_that_waited_long_for_its_quota_is_not_passed_within_its_project():
    large = queue("a", 1, cpu=6)
    small = queue("a", 3, first=10)
    standings = {"a": Standing(used=Amount(5, 5, 0), limits=Limits(cpu_millis=10))}
    room = [Room("n1", "a", 9, 50, 50)]
    assert len(share_out({"a": large + small}, standings, room)) == 3
    aged = [replace(large[0], aged=True)]
    others = queue("b", 2, first=20)
    assert {p.step_uid for p in share_out({"a": aged + small, "b": others}, standings, room)} == {20, 21}
    standings = {"a": Standing(used=Amount(4, 4, 0), limits=Limits(cpu_millis=10))}
    assert {p.step_uid for p in share_out({"a": aged + small}, standings, room)} == {0}
    lowered = {"a": Standing(limits=Limits(cpu_millis=5))}
    assert {p.step_uid for p in share_out({"a": aged + small}, lowered, room)} == {10, 11, 12}, "no waiting helps it"


def test_a_large_step_gets_its_turn_though_small_ones_never_stop_coming():
    """A node is reserved for it; the small ones that still fit beside it go on, and so do all other nodes."""
    chance = random.Random(3)
    large = Need(1, "big", "a", 80, 0)
    nodes = {f"n{i}": {} for i in range(3)}  # agent → {uid: (cpu, ends)}
    uid = iter(range(100, 1 << 30))
    reservation: Reservation | None = None
    beside_it = 0
    for turn in range(200):
        for held in nodes.values():
            for name in [n for n, (_, ends) in held.items() if ends <= turn]:
                del held[name]
        free = {a: Room(a, "a", 99, 100 - sum(c for c, _ in held.values()), 0) for a, held in nodes.items()}
        whole = {a: Room(a, "a", 99, 100, 0) for a in nodes}
        if turn == 20:
            seen = {a: Node(whole[a], free[a], frozenset(map(str, nodes[a]))) for a in nodes}
            reservation = reserve([large], seen, [])
            assert reservation is not None
            assert reserve([large, replace(large, step_uid=2)], seen, [reservation]) is None, "few at a time"
        offered = dict(free)
        if reservation is not None:
            agent = reservation.agent
            new = sum(c for n, (c, _) in nodes[agent].items() if str(n) not in reservation.before)
            offered[agent] = beside(reservation, whole[agent], free[agent], Amount(new, 0, 0))
        small = [Waiting(Need(next(uid), "small", "a", chance.choice([5, 10, 20]), 0), THEN) for _ in range(60)]
        # It comes when everything is full already.
        waiting = {"big": [Waiting(large, THEN)] if turn >= 10 else [], "small": small}
        standings = {"big": Standing(), "small": Standing()}
        reserved = {large.step_uid: free[reservation.agent]} if reservation else None
        placed = distribute(waiting, standings, Amount(300, 0, 0), Rooms(offered.values()), 999, reserved)
        needs = {w.need.step_uid: w.need for queue in waiting.values() for w in queue}
        if large.step_uid in {p.step_uid for p in placed}:
            break
        for p in placed:
            nodes[p.agent][p.step_uid] = (needs[p.step_uid].cpu_millis, turn + chance.randrange(3, 9))
            beside_it += reservation is not None and p.agent == reservation.agent
        if turn > 20:
            busy = [sum(c for c, _ in held.values()) for a, held in nodes.items() if a != reservation.agent]
            assert min(busy) > 80, "the other nodes are not held back"
    else:
        pytest.fail("the large step never got its turn")
    assert 20 <= turn < 40 and beside_it > 0


def test_a_node_is_reserved_only_where_the_step_could_ever_go():
    node = Node(Room("n1", "a", 1, 50, 0), Room("n1", "a", 0, 0, 0), frozenset())
    assert reserve([Need(1, "p", "a", 80, 0)], {"n1": node}, []) is None
    assert reserve([Need(1, "p", "b", 10, 0)], {"n1": node}, []) is None
    assert reserve([Need(1, "p", "a", 40, 0)], {"n1": node}, []).agent == "n1"


def test_a_limit_that_a_step_alone_exceeds_is_told_with_what_it_allows():
    limits = Limits(cpu_millis=1000, gpus=0)
    over = never_allowed(limits, Need(1, "p", "a", 2000, 10, 1))
    assert [(o.limit, o.allowed, o.wanted) for o in over] == [("cpu_millis", 1000, 2000), ("gpus", 0, 1)]
    assert never_allowed(limits, Need(1, "p", "a", 1000, 1 << 60)) == []
    assert exceeded(limits, Amount(1, 0, 0), Need(1, "p", "a", 1000, 1)).limit == "cpu_millis"
    # A limit of nothing does not hold back what wants nothing of it.
    assert exceeded(Limits(gpus=0), Amount(), Need(1, "p", "a", 1000, 1)) is None
