"""Rules of the domain and of the store, each broken on purpose: what finds none of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain import attempt as attempts
from animus_orchestrator.domain import retry, scheduler
from animus_orchestrator.domain import run as runs
from animus_orchestrator.domain import step as steps
from animus_orchestrator.domain.retry import Again
from animus_orchestrator.domain.run import Fact, RunGraph, RunState
from animus_orchestrator.domain.step import StepState
from animus_orchestrator.store import graph as graph_store

Patch = Callable[[pytest.MonkeyPatch], None]


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


def forgets_why(patch: pytest.MonkeyPatch) -> None:
    true = graph_store._step_row
    patch.setattr(graph_store, "_step_row", lambda *a: true(*a) | {"quiet_at": None})


def forgets_that_it_ran(patch: pytest.MonkeyPatch) -> None:
    true = graph_store._attempt_row
    patch.setattr(graph_store, "_attempt_row", lambda *a: true(*a) | {"ran": False})


def sees_a_part_for_the_whole(patch: pytest.MonkeyPatch) -> None:
    """What dispatch did not read of a run is taken for done."""
    patch.setattr(graph_store, "_load_after", lambda conn, loaded, ending: None)


STORE_MUTANTS = (forgets_why, forgets_that_it_ran, sees_a_part_for_the_whole)
