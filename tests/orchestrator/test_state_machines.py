"""Run, step and attempt as one state machine: whatever arrives in whatever order, the invariants hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from animus_orchestrator.domain import attempt as attempts
from animus_orchestrator.domain import step as steps
from animus_orchestrator.domain.attempt import AttemptState, Output, Result
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.domain.failure import RULES, FailureClass
from animus_orchestrator.domain.retry import MAX_EARLY_LOSSES, Again, Over, RetryPolicy, decide
from animus_orchestrator.domain.run import Run, RunGraph, RunState, settle
from animus_orchestrator.domain.step import Step, StepState

T0 = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = ["a", "b", "c", "d", "e"]
FAILURES = sorted(FailureClass)


def graph_of(edges: set[tuple[int, int]], max_attempts: int, size: int = 5) -> RunGraph:
    made = {}
    for i, name in enumerate(NAMES[:size]):
        dependencies = tuple(NAMES[x] for x, y in sorted(edges) if y == i and x < i)
        made[name] = Step(
            uid=i,
            name=name,
            ordinal=i,
            state=StepState.PENDING if dependencies else StepState.READY,
            dependencies=dependencies,
            retry=RetryPolicy(max_attempts=max_attempts, initial_seconds=1, max_seconds=8),
            ready_time=None if dependencies else T0,
        )
    return RunGraph(Run(1, "p", "r", RunState.QUEUED), made, {})


class Execution(RuleBasedStateMachine):
    """Agents lease, report, finish, disappear and repeat themselves; people cancel; time passes."""

    @initialize(edges=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))), max_attempts=st.integers(1, 3))
    def submit(self, edges, max_attempts):
        self.graph = graph_of(edges, max_attempts)
        self.now = T0
        self.ended: dict[tuple[str, int], AttemptState] = {}
        self.leases: dict[tuple[str, int], datetime] = {}
        self.commits: dict[str, int] = {}
        self.numbers = dict.fromkeys(self.graph.steps, 0)

    def live(self):
        return sorted(k for k, a in self.graph.attempts.items() if not a.terminal)

    @rule(step=st.sampled_from(NAMES))
    def lease(self, step):
        ready = self.graph.steps[step].state is StepState.READY
        try:
            made = self.graph.lease(step, "n1", self.now)
        except StaleAttempt:
            assert not ready or self.graph.run.state in (RunState.CANCELING, RunState.CANCELED)
            return
        # A retry never starts while the former attempt may still live.
        former = (step, made.number - 1)
        if former in self.leases and self.ended.get(former) is AttemptState.LOST:
            assert self.leases[former] <= self.now
        assert made.number == self.numbers[step] + 1
        self.numbers[step] = made.number
        self.leases[step, made.number] = self.now + timedelta(seconds=60)

    @rule(
        step=st.sampled_from(NAMES),
        back=st.integers(0, 2),
        state=st.sampled_from([AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.FINISHING]),
    )
    def report(self, step, back, state):
        key = (step, max(0, self.numbers[step] - back))
        before = (self.graph.run, dict(self.graph.steps), dict(self.graph.attempts))
        try:
            self.graph.report(*key, state, self.now)
        except StaleAttempt:
            assert (self.graph.run, self.graph.steps, self.graph.attempts) == before

    @rule(
        step=st.sampled_from(NAMES),
        back=st.integers(0, 2),
        end=st.sampled_from(sorted(attempts.RESULTS)),
        failure=st.sampled_from(FAILURES),
    )
    def finish(self, step, back, end, failure):
        key = (step, max(0, self.numbers[step] - back))
        before = (self.graph.run, dict(self.graph.steps), dict(self.graph.attempts))
        outputs = (Output("model", "sha256:" + "0" * 64, 1, 1),) if end is AttemptState.SUCCEEDED else ()
        result = Result(state=end, failure_class=None if outputs else failure, outputs=outputs)
        try:
            self.graph.finish(*key, result, self.now)
        except StaleAttempt:
            assert (self.graph.run, self.graph.steps, self.graph.attempts) == before
            return
        assert key not in self.ended
        self.ended[key] = end
        if end is AttemptState.SUCCEEDED:
            self.commits[step] = self.commits.get(step, 0) + 1

    @rule(data=st.data(), expired=st.booleans())
    def lose(self, data, expired):
        if not self.live():
            return
        key = data.draw(st.sampled_from(self.live()))
        if expired:
            self.now = max(self.now, self.leases[key])
        self.graph.lose(*key, self.now, reason="X", message="", lease_until=None if expired else self.leases[key])
        self.ended[key] = AttemptState.LOST

    @rule()
    def cancel(self):
        was = self.graph.run.state
        assert self.graph.cancel(self.now) == (was in (RunState.QUEUED, RunState.RUNNING))

    @rule(seconds=st.integers(0, 90))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)
        for name in NAMES:
            if not self.graph.settle_canceled(name, self.now):
                self.graph.retry_due(name, self.now)

    @invariant()
    def holds(self):
        graph = self.graph
        assert all(n <= 1 for n in self.commits.values()), "a step committed twice"
        for name, step in graph.steps.items():
            mine = [a for (s, _), a in graph.attempts.items() if s == name]
            living = [a for a in mine if not a.terminal]
            assert len(living) <= 1
            assert (step.state in steps.HELD) == bool(living)
            assert not living or living[0].number == step.current_attempt
            assert step.ran_attempts == sum(a.ran for a in mine)
            assert step.ran_attempts <= step.retry.max_attempts
            assert step.early_losses <= MAX_EARLY_LOSSES + 1
            assert (step.state is StepState.SUCCEEDED) == (self.commits.get(name, 0) == 1)
            if step.state in (StepState.READY, *steps.HELD, StepState.SUCCEEDED):
                assert all(graph.steps[d].state in steps.DONE for d in step.dependencies)
            assert step.terminal == (step.end_time is not None)
        terminal = all(s.terminal for s in graph.steps.values())
        assert graph.run.terminal == terminal
        if graph.run.state is RunState.SUCCEEDED:
            assert all(s.state in steps.DONE for s in graph.steps.values())
        if graph.run.state is RunState.CANCELED:
            # CANCELED means that nothing runs any more.
            assert all(self.leases[k] <= self.now for k, e in self.ended.items() if e is AttemptState.LOST)


Execution.TestCase.settings = settings(
    max_examples=250, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)
TestExecution = Execution.TestCase


def test_a_failure_skips_what_depends_on_it_and_nothing_else():
    graph = graph_of({(0, 1), (1, 2), (3, 4)}, max_attempts=1)
    graph.lease("a", "n1", T0)
    graph.report("a", 1, AttemptState.RUNNING, T0)
    graph.finish("a", 1, Result(AttemptState.FAILED, FailureClass.USER_ERROR, exit_code=2), T0)
    assert [graph.steps[n].state for n in NAMES] == ["FAILED", "SKIPPED", "SKIPPED", "READY", "PENDING"]
    assert graph.run.state is RunState.RUNNING and graph.run.reason == "USER_ERROR"
    for name in ("d", "e"):
        graph.lease(name, "n1", T0)
        graph.finish(name, 1, Result(AttemptState.SUCCEEDED), T0)
    assert graph.run.state is RunState.FAILED
    assert graph.facts[-1].kind == "run.failed"


def test_a_cancel_that_comes_too_late_changes_nothing():
    graph = graph_of(set(), max_attempts=1, size=1)
    graph.lease("a", "n1", T0)
    graph.cancel(T0)
    assert graph.steps["a"].state is StepState.CANCELING
    graph.finish("a", 1, Result(AttemptState.SUCCEEDED), T0)
    assert graph.run.state is RunState.SUCCEEDED


def test_a_cancel_waits_for_the_lease_of_a_lost_attempt():
    graph = graph_of(set(), max_attempts=3, size=1)
    graph.lease("a", "n1", T0)
    graph.lose("a", 1, T0, reason="DISOWNED", message="", lease_until=T0 + timedelta(seconds=60))
    graph.cancel(T0)
    assert graph.run.state is RunState.CANCELING
    assert not graph.settle_canceled("a", T0 + timedelta(seconds=59))
    assert graph.settle_canceled("a", T0 + timedelta(seconds=60))
    assert graph.run.state is RunState.CANCELED


@pytest.mark.parametrize("failure", list(FailureClass))
def test_every_failure_class_has_a_rule(failure):
    assert failure in RULES


def test_settle_table():
    succeeded, failed, canceled = StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELED
    assert settle(RunState.RUNNING, [succeeded, StepState.CACHED]) is RunState.SUCCEEDED
    assert settle(RunState.RUNNING, [succeeded, failed, StepState.SKIPPED]) is RunState.FAILED
    assert settle(RunState.CANCELING, [succeeded, canceled]) is RunState.CANCELED
    assert settle(RunState.CANCELING, [failed, canceled]) is RunState.CANCELED


def _decide(failure, **kw):
    values = {"ran": True, "ran_attempts": 1, "early_losses": 0, "now": T0, "lease_until": None} | kw
    policy = RetryPolicy(max_attempts=3, exponential=True, initial_seconds=2, max_seconds=5, multiplier=2)
    return decide(policy, failure, **values)


def test_backoff_follows_the_pipeline():
    assert _decide(FailureClass.USER_ERROR) == Again(T0 + timedelta(seconds=2))
    assert _decide(FailureClass.USER_ERROR, ran_attempts=2) == Again(T0 + timedelta(seconds=4))
    assert _decide(FailureClass.USER_ERROR, ran_attempts=3) == Over("ATTEMPTS_EXHAUSTED")
    assert RetryPolicy(5, False, 3, 60, 2).backoff(4) == 3
    assert RetryPolicy(10**6, True, 1, 60, 10).backoff(10**5) == 60


def test_losses_before_running_have_a_bound_of_their_own():
    early = {"ran": False, "ran_attempts": 0}
    assert isinstance(_decide(FailureClass.LOST_NODE, early_losses=MAX_EARLY_LOSSES, **early), Again)
    assert _decide(FailureClass.LOST_NODE, early_losses=MAX_EARLY_LOSSES + 1, **early) == Over("TOO_MANY_LOSSES")


def test_a_retry_waits_for_the_lease_that_still_runs():
    until = T0 + timedelta(seconds=50)
    assert _decide(FailureClass.LOST_NODE, lease_until=until) == Again(until)


@pytest.mark.parametrize("failure", [f for f in FailureClass if not RULES[f].retry])
def test_what_cannot_get_better_is_not_retried(failure):
    assert _decide(failure) == Over("NOT_RETRIED")
