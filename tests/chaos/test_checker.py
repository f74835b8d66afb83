"""The checker finds what it is there to find: for each rule a history that breaks it, and it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from animus_agent.attempt.directory import identifier
from tests.chaos import checker, load
from tests.chaos.history import Asked, Attempt, Event, Fault, History, Run, Skew, Start, Step

RUN = "projects/p/runs/r"
FIRST, SECOND = f"{RUN}/steps/first", f"{RUN}/steps/second"
DIGEST = "sha256:" + "1" * 64
TYPES = {name: f"orchestrator.attempt.{name}" for name in ("leased", "started", "committed", "failed")}


def good() -> History:
    """A chain of two: the first step's first attempt is lost while it runs, and its second succeeds."""
    history = History(
        seed=1,
        asked=[Asked(RUN, "chain", False)],
        runs=[Run(RUN, "SUCCEEDED")],
        steps=[Step(FIRST, "SUCCEEDED", 2, {"out": DIGEST}), Step(SECOND, "SUCCEEDED", 1, {"out": DIGEST})],
        attempts=[
            attempt(FIRST, 1, "LOST", "node-1", log=[(0, whole("first")[:50])], reason="LEASE_EXPIRED", end=20.0),
            attempt(FIRST, 2, "SUCCEEDED", "node-2", log=[(0, whole("first"))], end=30.0),
            attempt(SECOND, 1, "SUCCEEDED", "node-2", log=[(0, whole("second"))], end=40.0),
        ],
        faults=[Fault("pause-agent", "node-1", 5.0, 20.0)],
        skews=[Skew("node-3", 10.0, 35.0)],
    )
    told = [
        ("leased", FIRST, 1, 2.0), ("started", FIRST, 1, 3.0), ("failed", FIRST, 1, 20.0),
        ("leased", FIRST, 2, 21.0), ("started", FIRST, 2, 22.0), ("committed", FIRST, 2, 30.0),
        ("leased", SECOND, 1, 31.0), ("started", SECOND, 1, 32.0), ("committed", SECOND, 1, 40.0),
    ]  # fmt: skip
    for index, (what, step, number, time) in enumerate(told):
        history.events.append(event(index, what, step, number, time))
    history.log_size = len(told)
    history.sources = {"orchestrator": len(told)}
    history.starts = [Start(one.agent.removeprefix("agents/"), identifier(one.name)) for one in history.attempts]
    return history


def attempt(step: str, number: int, state: str, node: str, **more: object) -> Attempt:
    return Attempt(f"{step}/attempts/{number}", state, f"agents/{node}", **more)  # type: ignore[arg-type]


def event(index: int, what: str, step: str, number: int, time: float) -> Event:
    agent = "agents/node-1" if (step, number) == (FIRST, 1) else "agents/node-2"
    return Event(index, "orchestrator", index + 1, TYPES[what], f"{step}/attempts/{number}", time, {"agent": agent})


def whole(step: str) -> str:
    return load.log_of("chain", step).decode()


def put(history: History, what: str, at: int, /, **changed: object) -> None:
    items = getattr(history, what)
    items[at] = replace(items[at], **changed)


def swap(history: History, a: int, b: int) -> None:
    """Two events happen in the other order."""
    one, other = history.events[a], history.events[b]
    history.events[a] = replace(other, index=one.index, seq=one.seq)
    history.events[b] = replace(one, index=other.index, seq=other.seq)


def without_event(history: History, index: int) -> None:
    """As if it had never been told: the events behind it move up."""
    del history.events[index]
    for at in range(index, len(history.events)):
        put(history, "events", at, index=at, seq=at + 1)
    history.log_size = history.sources["orchestrator"] = len(history.events)


def committed_twice(history: History) -> None:
    put(history, "events", 2, type=TYPES["committed"])
    put(history, "attempts", 0, state="SUCCEEDED", log=[(0, whole("first"))])


def late_result(history: History) -> None:
    """The lost attempt's node comes back and its result is taken, instead of the current one's."""
    put(history, "events", 5, resource=f"{FIRST}/attempts/1")
    put(history, "steps", 0, current_attempt=1)
    put(history, "attempts", 0, state="SUCCEEDED", log=[(0, whole("first"))])
    put(history, "attempts", 1, state="FAILED", reason="NONZERO_EXIT")


BROKEN: dict[str, list[Callable[[History], None]]] = {
    "every_run_is_terminal": [
        lambda h: put(h, "runs", 0, state="RUNNING"),
        lambda h: h.runs.clear(),
        lambda h: h.runs.append(Run(f"{RUN}2", "SUCCEEDED")),
        lambda h: h.steps.append(Step(f"{RUN}/steps/third", "READY", 0)),
        lambda h: h.attempts.append(attempt(f"{RUN}/steps/third", 1, "RUNNING", "node-1")),
    ],
    "every_run_ends_as_it_must": [
        lambda h: put(h, "runs", 0, state="FAILED", reason="TOO_MANY_LOSSES"),
        lambda h: put(h, "runs", 0, state="CANCELED"),
        lambda h: put(h, "asked", 0, shape="broken", cancel=False),
    ],
    "at_most_one_result_of_a_step_is_committed": [
        committed_twice,
        lambda h: without_event(h, 8),
        lambda h: put(h, "attempts", 2, state="FAILED", reason="NONZERO_EXIT"),
        lambda h: put(h, "steps", 0, current_attempt=3),
        lambda h: h.steps.pop(),
    ],
    "no_stale_attempt_has_an_effect": [
        late_result,
        lambda h: swap(h, 2, 3),
        lambda h: swap(h, 4, 5),
        lambda h: put(h, "events", 3, resource=f"{FIRST}/attempts/3"),
        lambda h: without_event(h, 2),
    ],
    "a_container_is_started_at_most_once": [
        lambda h: h.starts.append(h.starts[0]),
        lambda h: h.starts.append(replace(h.starts[0], agent="node-3")),
        lambda h: put(h, "starts", 1, agent="node-3"),
        lambda h: h.starts.pop(),
        lambda h: h.starts.append(Start("node-1", "an-0")),
    ],
    "no_source_has_a_gap": [
        lambda h: h.events.pop(4),
        lambda h: put(h, "events", 4, seq=4),
        lambda h: put(h, "events", 4, index=3),
        lambda h: h.sources.update(orchestrator=10),
        lambda h: h.sources.update(catalog=1),
        lambda h: h.sources.clear(),
    ],
    "logs_are_complete_or_marked": [
        lambda h: put(h, "attempts", 1, log=[(0, whole("first")[:-1])]),
        lambda h: put(h, "attempts", 1, log=[(0, whole("first")[:100]), (200, whole("first")[200:])]),
        lambda h: put(h, "attempts", 1, log=[(0, whole("first")), (0, whole("first")[:7])]),
        lambda h: put(h, "attempts", 1, log=[]),
        lambda h: put(h, "attempts", 0, log=[(0, whole("second")[:50])]),
        lambda h: put(h, "attempts", 0, log=[(9, whole("first")[9:50])]),
        # A mark excuses what is missing and not what is wrong.
        lambda h: put(h, "attempts", 0, log=[(0, whole("second")[:50])], cut=True),
    ],
    "equal_steps_have_equal_outputs": [
        lambda h: put(h, "steps", 0, outputs={}),
        lambda h: (
            h.asked.append(Asked(f"{RUN}2", "chain", True)),
            h.runs.append(Run(f"{RUN}2", "CANCELED")),
            h.steps.append(Step(f"{RUN}2/steps/first", "CANCELED", 0, {"out": "sha256:" + "2" * 64})),
        ),
    ],
    "a_wrong_clock_stops_new_work_and_nothing_else": [
        lambda h: put(h, "skews", 0, agent="node-2"),
        lambda h: put(h, "skews", 0, held=[f"{FIRST}/attempts/1"]),
    ],
    "nothing_is_left_on_the_host": [lambda h: h.left.append("node-1 has the cgroup an-0")],
    "the_run_itself_went_well": [lambda h: h.troubles.append("it did not come to rest")],
}
# Some wrongs are wrong in two ways.
ALSO = {
    "at_most_one_result_of_a_step_is_committed": {
        "no_stale_attempt_has_an_effect",
        "a_container_is_started_at_most_once",
    },
    "no_stale_attempt_has_an_effect": {"at_most_one_result_of_a_step_is_committed"},
    "every_run_is_terminal": {"every_run_ends_as_it_must"},
}
CASES = [(rule, number) for rule, cases in BROKEN.items() for number in range(len(cases))]


def test_a_good_history_passes() -> None:
    assert checker.check(good()) == []


@pytest.mark.parametrize(("rule", "number"), CASES)
def test_a_broken_history_is_found(rule: str, number: int) -> None:
    history = good()
    BROKEN[rule][number](history)
    found = {line.partition(":")[0] for line in checker.check(history)}
    assert rule in found
    assert found - {rule} <= ALSO.get(rule, set())


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert set(BROKEN) == {rule.__name__ for rule in checker.RULES}


@pytest.mark.parametrize("cut", [[(0, "")], [(0, whole("first")[:100])], [(100, whole("first")[100:])]])
def test_a_log_that_is_marked_as_cut_may_lack_bytes(cut: list[tuple[int, str]]) -> None:
    history = good()
    put(history, "attempts", 1, log=cut, cut=True)
    assert checker.check(history) == []


def test_what_something_else_disturbed_is_not_laid_on_the_clock() -> None:
    history = good()
    put(history, "skews", 0, agent="node-1", since=15.0, until=16.0, held=[f"{FIRST}/attempts/1"])
    assert checker.check(history) == []


def test_a_history_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    history = good()
    history.save(tmp_path / "history.json")
    again = History.load(tmp_path / "history.json")
    assert checker.check(again) == []
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "history.json").read_bytes()
