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
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.attempt import AttemptState
from animus_orchestrator.domain.run import RunState
from animus_orchestrator.domain.step import StepState
from tests.orchestrator.model import World
from tests.orchestrator.mutants import MUTANTS, STORE_MUTANTS, Patch
from tests.orchestrator.stored import Stored

TRANSITIONS = int(os.environ.get("ANIMUS_TEST_TRANSITIONS", "20000"))
SEED = int(os.environ.get("ANIMUS_TEST_SEED", "0"))
# One world long enough for old attempts, sessions and instances to come back; then a new one.
PER_WORLD = 2000

ACTIONS = {
    # How often a random walk does each.
    "submit": 6, "cancel": 1, "refuse": 1, "decide": 4, "revoke": 1, "replace_node": 3, "lease": 20, "reap": 8,
    "overdue": 1, "connect": 5, "status": 14, "deliver": 30, "replay": 4, "work": 60, "restart": 1, "pause": 2, "skew": 1,
    "tick": 6,
}  # fmt: skip

STORM = ACTIONS | {
    "work": 3,
    "deliver": 6,
    "status": 3,
    "connect": 8,
    "tick": 40,
    "submit": 2,
    "decide": 1,
    "revoke": 0,
}
"""Nodes that hardly ever come to anything: attempts end before they run, again and again."""

Act = tuple[str, int, int]
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


@pytest.mark.parametrize("mutant", STORE_MUTANTS)
def test_a_store_that_loses_something_is_found(engine: Any, mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(Broken):
        stored_walk(engine, 100 + 4 * STORE_MUTANTS.index(mutant), 2000)


# -- each truth can fail: a rule that is broken on purpose is found -----------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    with pytest.raises(Broken):
        for seed in range(10):
            walk(seed, PER_WORLD, shorten=False)


def test_a_failure_is_cut_down_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS["everybody_gets_work"](monkeypatch)
    with pytest.raises(Broken) as broken:
        walk(1, PER_WORLD)
    told = str(broken.value).split("\n")
    assert 2 <= len(told) <= 12, broken.value
