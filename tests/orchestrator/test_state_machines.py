"""Transitions of runs, steps and attempts one by one; test_state_properties.py has them in every order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from animus_orchestrator.domain.attempt import AttemptState, Result
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
    values = {"ran": True, "counted": 1, "early_losses": 0, "now": T0, "lease_until": None} | kw
    policy = RetryPolicy(max_attempts=3, exponential=True, initial_seconds=2, max_seconds=5, multiplier=2)
    return decide(policy, failure, **values)


def test_backoff_follows_the_pipeline():
    assert _decide(FailureClass.USER_ERROR) == Again(T0 + timedelta(seconds=2))
    assert _decide(FailureClass.USER_ERROR, counted=2) == Again(T0 + timedelta(seconds=4))
    assert _decide(FailureClass.USER_ERROR, counted=3) == Over("ATTEMPTS_EXHAUSTED")
    assert RetryPolicy(5, False, 3, 60, 2).backoff(4) == 3
    assert RetryPolicy(10**6, True, 1, 60, 10).backoff(10**5) == 60


def test_losses_before_running_have_a_bound_of_their_own():
    early = {"ran": False, "counted": 0}
    assert isinstance(_decide(FailureClass.LOST_NODE, early_losses=MAX_EARLY_LOSSES, **early), Again)
    assert _decide(FailureClass.LOST_NODE, early_losses=MAX_EARLY_LOSSES + 1, **early) == Over("TOO_MANY_LOSSES")


def test_a_retry_waits_for_the_lease_that_still_runs():
    until = T0 + timedelta(seconds=50)
    assert _decide(FailureClass.LOST_NODE, lease_until=until) == Again(until)


@pytest.mark.parametrize("failure", [f for f in FailureClass if not RULES[f].retry])
def test_what_cannot_get_better_is_not_retried(failure):
    assert _decide(failure) == Over("NOT_RETRIED")


def test_why_an_attempt_ended_is_not_told_of_the_next_one():
    graph = graph_of(set(), max_attempts=3, size=1)
    graph.lease("a", "n1", T0)
    graph.lose("a", 1, T0, reason="DRAIN_DEADLINE_PASSED", message="the node is being emptied", lease_until=None)
    step = graph.steps["a"]
    assert (step.state, step.reason) == ("RETRYING", "DRAIN_DEADLINE_PASSED")
    assert graph.retry_due("a", T0 + timedelta(hours=1))
    graph.lease("a", "n2", T0)
    assert (graph.steps["a"].reason, graph.steps["a"].message) == ("", "")
    assert graph.attempts["a", 1].reason == "DRAIN_DEADLINE_PASSED"
    graph.cancel(T0)
    graph.finish("a", 2, Result(AttemptState.CANCELED, FailureClass.CANCELED), T0)
    assert (graph.steps["a"].reason, graph.steps["a"].message) == ("CANCELED", "")
