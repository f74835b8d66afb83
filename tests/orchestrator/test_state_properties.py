"""Runs, steps, attempts and agents under everything that may happen to them, against what must always hold.

`ANIMUS_TEST_TRANSITIONS` is how many changes of state the walk makes (20,000 if absent; `make chaos` asks for a
million), `ANIMUS_TEST_SEED` where it begins. A walk that fails is cut down to the acts that matter and prints them.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain import attempt as attempts
from animus_orchestrator.domain import retry, scheduler
from animus_orchestrator.domain import run as runs
from animus_orchestrator.domain import step as steps
from animus_orchestrator.domain.attempt import AttemptState
from animus_orchestrator.domain.retry import Again
from animus_orchestrator.domain.run import Fact, RunGraph, RunState
from animus_orchestrator.domain.step import StepState
from animus_orchestrator.store import graph as graph_store
from tests.orchestrator.model import ACTIONS, STORM, World
from tests.orchestrator.stored import Stored

TRANSITIONS = int(os.environ.get("ANIMUS_TEST_TRANSITIONS", "20000"))
SEED = int(os.environ.get("ANIMUS_TEST_SEED", "0"))
# One world long enough for old attempts, sessions and instances to come back; then a new one.
PER_WORLD = 2000

Act = tuple[str, int, int]
Patch = Callable[[pytest.MonkeyPatch], None]
_NAMES = list(ACTIONS)
_WEIGHTS = [list(itertools.accumulate(weights.values())) for weights in (ACTIONS, ACTIONS, ACTIONS, STORM)]


class Broken(AssertionError):
    """A truth that did not hold, with the acts that led there."""


def walk(seed: int, transitions: int, make: Callable[[], World] = World, *, shorten: bool = True) -> Counter[str]:
    """Acts at random until so many transitions have happened, every fourth seed in a storm; answers how often each did.
    Raises Broken."""
    weights = _WEIGHTS[seed % len(_WEIGHTS)]
    choose, world, done = random.Random(seed), make(), []
    while world.truths.transitions < transitions:
        act = (choose.choices(_NAMES, cum_weights=weights)[0], choose.getrandbits(32), choose.getrandbits(16))
        done.append(act)
        try:
            world.act(*act)
        except AssertionError as error:
            few = shortest(done, make) if shorten else done[-3:]
            raise Broken(f"seed {seed}: {error}\n" + "\n".join(f"    world.act{act}" for act in few)) from error
    return world.truths.kinds


def fails(acts: list[Act], make: Callable[[], World] = World) -> bool:
    world = make()
    try:
        for act in acts:
            world.act(*act)
    except AssertionError:
        return True
    return False


def shortest(acts: list[Act], make: Callable[[], World] = World, tries: int = 400) -> list[Act]:
    """Leaves out what the failure does not need. Any part of a history is one: acts that find nothing do nothing."""
    size = len(acts) // 2
    while size and tries:
        at = 0
        while at < len(acts) and tries:
            without = acts[:at] + acts[at + size :]
            tries -= 1
            if fails(without, make):
                acts = without
            else:
                at += size
        size //= 2
    return acts


@pytest.mark.timeout(120 + TRANSITIONS // 500)
def test_the_truths_hold_on_a_random_walk() -> None:
    seen: Counter[str] = Counter()
    for seed in itertools.count(SEED):
        if sum(seen.values()) >= TRANSITIONS:
            break
        seen += walk(seed, min(PER_WORLD, TRANSITIONS))
    states = {f"run.{s}" for s in RunState} | {f"step.{s}" for s in StepState} | {f"attempt.{s}" for s in AttemptState}
    states |= {f"agent.{s}" for s in agents.AgentState}
    # Gates and caches are not part of this world; a pending step is born so.
    unseen = {"run.WAITING", "step.WAITING", "step.CACHED", "step.PENDING"}
    assert states - seen.keys() == unseen, "a state that no walk reached"


class Execution(RuleBasedStateMachine):
    """The same world, driven by hypothesis, which looks for the shortest way to break it."""

    @initialize()
    def begin(self) -> None:
        self.world = World()

    @rule(
        name=st.sampled_from([name for name, weight in ACTIONS.items() for _ in range(weight)]),
        a=st.integers(0, 2**32 - 1),
        b=st.integers(0, 2**16 - 1),
    )
    def act(self, name: str, a: int, b: int) -> None:
        self.world.act(name, a, b)


Execution.TestCase.settings = settings(
    max_examples=60, stateful_step_count=120, deadline=None, suppress_health_check=list(HealthCheck)
)
TestExecution = Execution.TestCase


# -- the same through PostgreSQL ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(postgres: Any) -> Iterator[Any]:
    database = postgres.database(("animus_orchestrator",))
    yield database.engine("orchestrator", 2)
    database.drop()


def stored_walk(engine: Any, seed: int, transitions: int) -> Stored:
    stored = Stored(engine, seed + 1)
    walk(seed, transitions, lambda: World(stored.keep), shorten=False)
    stored.check_outbox()
    return stored


@pytest.mark.parametrize("seed", [0, 3])
def test_the_store_comes_to_the_same(engine: Any, seed: int) -> None:
    assert stored_walk(engine, seed, 250).compared > 100


def forgets_why(patch: pytest.MonkeyPatch) -> None:
    true = graph_store._step_row
    patch.setattr(graph_store, "_step_row", lambda *a: true(*a) | {"quiet_at": None})


def forgets_that_it_ran(patch: pytest.MonkeyPatch) -> None:
    true = graph_store._attempt_row
    patch.setattr(graph_store, "_attempt_row", lambda *a: true(*a) | {"ran": False})


def sees_a_part_for_the_whole(patch: pytest.MonkeyPatch) -> None:
    """What dispatch did not read of a run is taken for done."""
    patch.setattr(graph_store, "_load_after", lambda conn, loaded, ending: None)


@pytest.mark.parametrize("mutant", [forgets_why, forgets_that_it_ran, sees_a_part_for_the_whole])
def test_a_store_that_loses_something_is_found(engine: Any, mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(Broken):
        stored_walk(engine, 100 + 4 * [forgets_why, forgets_that_it_ran, sees_a_part_for_the_whole].index(mutant), 2000)


# -- each truth can fail: a rule that is broken on purpose is found -----------------------------------------------------


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Any attempt that is known may write."""

    def current(self: RunGraph, step: str, number: int):  # type: ignore[no-untyped-def]
        found = self.attempts.get((step, number))
        if found is None:
            raise runs.StaleAttempt("x")
        return self.steps[step], found

    patch.setattr(RunGraph, "current", current)


def fence_by_number_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "held_by", lambda step, attempt: step.current_attempt == attempt.number)


def numbers_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        steps, "lease", lambda s: replace(s, state=StepState.LEASED, current_attempt=max(1, s.current_attempt))
    )


def decision(change: Callable[..., object]) -> Patch:
    def apply(patch: pytest.MonkeyPatch) -> None:
        true = retry.decide
        patch.setattr(steps, "decide", lambda *a, **kw: change(true, *a, **kw))

    return apply


def no_wait_for_the_lease(true, *a, **kw):  # type: ignore[no-untyped-def]
    return true(*a, **{**kw, "lease_until": None})


def one_attempt_too_many(true, policy, *a, **kw):  # type: ignore[no-untyped-def]
    return true(replace(policy, max_attempts=policy.max_attempts + 1), *a, **kw)


def only_those_that_ran_count(true, *a, **kw):  # type: ignore[no-untyped-def]
    return true(*a, **{**kw, "counted": 0})


def losses_without_end(true, *a, **kw):  # type: ignore[no-untyped-def]
    return true(*a, **{**kw, "early_losses": min(kw["early_losses"], 1)})


def always_again(true, *a, **kw):  # type: ignore[no-untyped-def]
    return Again(kw["now"])


def canceled_at_once(patch: pytest.MonkeyPatch) -> None:
    """A lost attempt of a canceling run is not waited for."""
    true = RunGraph._ended_badly
    patch.setattr(
        RunGraph, "_ended_badly", lambda self, step, attempt, now, lease_until: true(self, step, attempt, now, None)
    )


def cancel_does_not_ask_the_node(patch: pytest.MonkeyPatch) -> None:
    true = steps.cancel

    def cancel(step, now):  # type: ignore[no-untyped-def]
        return steps.finish_canceled(step, now) if step.state in steps.HELD else true(step, now)

    patch.setattr(steps, "cancel", cancel)


def cancel_forgets_the_lost(patch: pytest.MonkeyPatch) -> None:
    true = steps.cancel
    patch.setattr(steps, "cancel", lambda step, now: true(replace(step, quiet_at=None), now))


def ends_too_early(patch: pytest.MonkeyPatch) -> None:
    true = RunGraph._settle

    def settle(self: RunGraph, now) -> None:  # type: ignore[no-untyped-def]
        if not self.run.terminal and any(s.state is StepState.FAILED for s in self.steps.values()):
            self._put_run(replace(self.run, state=RunState.FAILED, end_time=now))
            self.facts.append(Fact("run.failed"))
        true(self, now)

    patch.setattr(RunGraph, "_settle", settle)


def never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunGraph, "_settle", lambda self, now: None)


def nothing_is_skipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunGraph, "_skip_after", lambda self, failed, now: None)


def ready_before_all_are_done(patch: pytest.MonkeyPatch) -> None:
    def ready_after(self: RunGraph, done: str, now) -> None:  # type: ignore[no-untyped-def]
        for step in list(self.steps.values()):
            if step.state is StepState.PENDING and done in step.dependencies:
                self._put(steps.make_ready(step, now))

    patch.setattr(RunGraph, "_ready_after", ready_after)


def facts_twice(patch: pytest.MonkeyPatch) -> None:
    true = RunGraph.finish

    def finish(self: RunGraph, *a):  # type: ignore[no-untyped-def]
        answer = true(self, *a)
        self.facts.extend(f for f in list(self.facts) if f.kind == "attempt.committed")
        return answer

    patch.setattr(RunGraph, "finish", finish)


def a_fact_is_left_out(patch: pytest.MonkeyPatch) -> None:
    true = RunGraph.lose

    def lose(self: RunGraph, *a, **kw):  # type: ignore[no-untyped-def]
        answer = true(self, *a, **kw)
        self.facts = [f for f in self.facts if f.kind != "step.retrying"]
        return answer

    patch.setattr(RunGraph, "lose", lose)


def reports_go_backwards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "advance", lambda attempt, to, now: replace(attempt, state=to))


def ran_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    true = attempts.end
    patch.setattr(attempts, "end", lambda attempt, result, now: replace(true(attempt, result, now), ran=False))


def retries_too_early(patch: pytest.MonkeyPatch) -> None:
    true = RunGraph.retry_due
    patch.setattr(RunGraph, "retry_due", lambda self, name, now: true(self, name, now + timedelta(hours=1)))


def gpus_given_twice(patch: pytest.MonkeyPatch) -> None:
    true = scheduler.take

    def take(need, room):  # type: ignore[no-untyped-def]
        left, given = true(need, room)
        return left, tuple(room.gpus[0].uuid for _ in given)

    patch.setattr(scheduler, "take", take)


def cpu_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    true = scheduler.obstacle
    patch.setattr(scheduler, "obstacle", lambda need, room: true(replace(need, cpu_millis=0), room))


def everybody_gets_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agents, "unschedulable", lambda agent: "")


def skew_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    true = agents.unschedulable
    patch.setattr(agents, "unschedulable", lambda agent: true(replace(agent, clock_skew_seconds=0.0)))


def copies_are_let_in(patch: pytest.MonkeyPatch) -> None:
    true = agents.connect
    patch.setattr(agents, "connect", lambda agent, instance: replace(true(agent, instance), cordoned=agent.cordoned))


def a_copy_can_be_uncordoned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agents, "uncordon", lambda agent: replace(agent, cordoned="", revision=agent.revision + 1))


def revocation_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        agents, "uncordon", lambda agent: replace(agent, revoked=False, cordoned="", revision=agent.revision + 1)
    )


def decisions_leave_no_trace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agents, "_decided", lambda agent, **changes: replace(agent, **changes))


MUTANTS: dict[str, Patch] = {
    patch.__name__: patch
    for patch in (
        no_fence, fence_by_number_alone, numbers_again, canceled_at_once, cancel_does_not_ask_the_node,
        cancel_forgets_the_lost, ends_too_early, never_ends, nothing_is_skipped, ready_before_all_are_done, facts_twice,
        a_fact_is_left_out, reports_go_backwards, ran_is_forgotten, retries_too_early, gpus_given_twice,
        cpu_is_not_looked_at, everybody_gets_work, skew_is_not_looked_at, copies_are_let_in, a_copy_can_be_uncordoned,
        revocation_ends, decisions_leave_no_trace,
    )
} | {
    change.__name__: decision(change)
    for change in (
        no_wait_for_the_lease, one_attempt_too_many, only_those_that_ran_count, losses_without_end, always_again,
    )
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    with pytest.raises(Broken):
        for seed in range(10):
            walk(seed, PER_WORLD, shorten=False)


def test_a_failure_is_cut_down_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody_gets_work(monkeypatch)
    with pytest.raises(Broken) as broken:
        walk(1, PER_WORLD)
    told = str(broken.value).split("\n")
    assert 2 <= len(told) <= 12, broken.value
