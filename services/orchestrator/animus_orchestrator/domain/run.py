"""A run and its steps as one graph: every transition of execution is a method here, on plain data.

The store loads a `RunGraph`, one of its methods changes it, the store writes what changed. What a transition means for
the log is collected in `facts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from animus_orchestrator.domain import attempt as attempts
from animus_orchestrator.domain import step as steps
from animus_orchestrator.domain.attempt import Attempt, AttemptState, Result
from animus_orchestrator.domain.errors import StaleAttempt
from animus_orchestrator.domain.step import Step, StepState


class RunState(StrEnum):
    """The names are those of `Run.State` on the wire."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    WAITING = "WAITING"


TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELED})


@dataclass(frozen=True, slots=True)
class Run:
    uid: int
    project: str
    """Its id, without "projects/"."""
    id: str
    state: RunState
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"projects/{self.project}/runs/{self.id}"

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened and belongs in the log: `<noun>.<past tense>` about a step, an attempt or the run."""

    kind: str
    step: str = ""
    attempt: int = 0


@dataclass
class RunGraph:
    """A run with its steps and live attempts. `steps` may be a part of the run while nothing ends."""

    run: Run
    steps: dict[str, Step]
    attempts: dict[tuple[str, int], Attempt]
    changed_steps: set[str] = field(default_factory=set)
    changed_attempts: set[tuple[str, int]] = field(default_factory=set)
    run_changed: bool = False
    became_ready: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    rest: frozenset[StepState] = frozenset()
    """States of steps of the run that are not in `steps`: enough while those that end succeed."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def current(self, step: str, number: int) -> tuple[Step, Attempt]:
        """Raises: StaleAttempt unless this attempt may still write."""
        found_step, found = self.steps.get(step), self.attempts.get((step, number))
        if found_step is None or found is None or not steps.held_by(found_step, found):
            raise StaleAttempt(f"attempt {number} of step {step} is no longer current")
        return found_step, found

    # -- transitions ------------------------------------------------------------------------------------------------

    def lease(self, name: str, agent: str, now: datetime) -> Attempt:
        """READY → LEASED: the step's next attempt, which is never given out again."""
        step = self.steps[name]
        if step.state is not StepState.READY or self.run.state in TERMINAL | {RunState.CANCELING, RunState.WAITING}:
            raise StaleAttempt(f"step {name} is not ready")
        step = steps.lease(step)
        leased = Attempt(step=name, number=step.current_attempt, agent=agent, state=AttemptState.LEASED, lease_time=now)
        self._put(step)
        self._put_attempt(leased)
        self.facts.append(Fact("attempt.leased", name, leased.number))
        return leased

    def refuse(self, name: str, reason: str, message: str, now: datetime) -> bool:
        """READY → FAILED without an attempt: no contract can be made of it. Tells whether anything changed."""
        step = self.steps[name]
        if step.state is not StepState.READY or self.run.terminal:
            return False
        self._put(replace(step, state=StepState.FAILED, reason=reason, message=message, end_time=now))
        self.facts.append(Fact("step.failed", name))
        if not self.run.reason:
            self._put_run(replace(self.run, reason=reason, message=f"step {name}: {message}"[:4096]))
        self._skip_after(name, now)
        self._settle(now)
        return True

    def report(self, name: str, number: int, state: AttemptState, now: datetime) -> bool:
        """Applies a reported state of a live attempt; tells whether anything changed. Raises: StaleAttempt."""
        step, before = self.current(name, number)
        after = attempts.advance(before, state, now)
        if after == before:
            return False
        self._put_attempt(after)
        self._put(steps.follow(step, before, after))
        if after.ran and not before.ran:
            self.facts.append(Fact("attempt.started", name, number))
        if self.run.state is RunState.QUEUED:
            self._put_run(replace(self.run, state=RunState.RUNNING, start_time=now))
        return True

    def finish(self, name: str, number: int, result: Result, now: datetime) -> Attempt:
        """Ends a live attempt with its agent's (checked) result. Raises: StaleAttempt."""
        step, before = self.current(name, number)
        after = attempts.end(before, result, now)
        if self.run.state is RunState.QUEUED:
            self._put_run(replace(self.run, state=RunState.RUNNING, start_time=now))
        self._put_attempt(after)
        step = steps.follow(step, before, after)
        if after.ran and not before.ran:
            self.facts.append(Fact("attempt.started", name, number))
        if after.state is AttemptState.SUCCEEDED:
            self.facts.append(Fact("attempt.committed", name, number))
            # Says of the step that it succeeded: no event of its own repeats it.
            self._put(steps.succeed(step, result.outputs, now))
            self._ready_after(name, now)
        else:
            self.facts.append(Fact("attempt.failed", name, number))
            self._ended_badly(step, after, now, lease_until=None)
        self._settle(now)
        return after

    def lose(
        self, name: str, number: int, now: datetime, *, reason: str, message: str, lease_until: datetime | None
    ) -> Attempt:
        """Ends a live attempt of which nothing more is known. Raises: StaleAttempt.

        `lease_until` is None when its lease has run out, which means that its node has killed it.
        """
        step, before = self.current(name, number)
        after = attempts.lose(before, reason, message, now)
        self._put_attempt(after)
        self.facts.append(Fact("attempt.failed", name, number))
        self._ended_badly(step, after, now, lease_until)
        self._settle(now)
        return after

    def cancel(self, now: datetime) -> bool:
        """Asks everything to stop; tells whether anything changed."""
        if self.run.terminal or self.run.state is RunState.CANCELING:
            return False
        self._put_run(replace(self.run, state=RunState.CANCELING, reason="CANCELED"))
        self.facts.append(Fact("run.cancel-requested"))
        for name, step in list(self.steps.items()):
            after = steps.cancel(step, now)
            if after is step:
                continue
            self._put(after)
            if after.terminal:
                self.facts.append(Fact("step.canceled", name, after.current_attempt))
            held = self.attempts.get((name, step.current_attempt))
            if after.state is StepState.CANCELING and held is not None and not held.terminal:
                self._put_attempt(replace(held, state=AttemptState.CANCELING))
        self._settle(now)
        return True

    def retry_due(self, name: str, now: datetime) -> bool:
        """RETRYING → READY once its time has come; tells whether it did."""
        step = self.steps[name]
        if step.state is not StepState.RETRYING or (step.not_before is not None and step.not_before > now):
            return False
        self._put(steps.make_ready(step, now))
        self.became_ready.append(name)
        return True

    # -- consequences -----------------------------------------------------------------------------------------------

    def _ended_badly(self, step: Step, attempt: Attempt, now: datetime, lease_until: datetime | None) -> None:
        if self.run.state is RunState.CANCELING:
            if lease_until is not None:
                # Not known dead: CANCELED only once nothing can be running any more. The reaper comes back to it.
                self._put(replace(step, state=StepState.RETRYING, not_before=lease_until, quiet_at=lease_until))
                return
            self._put(steps.finish_canceled(step, now))
            self.facts.append(Fact("step.canceled", step.name, attempt.number))
            return
        after = steps.fail_or_retry(step, attempt, now, lease_until)
        self._put(after)
        if after.state is StepState.FAILED:
            self.facts.append(Fact("step.failed", step.name, attempt.number))
            if not self.run.reason:
                self._put_run(
                    replace(self.run, reason=after.reason, message=f"step {step.name}: {after.message}"[:4096])
                )
            self._skip_after(step.name, now)
        else:
            self.facts.append(Fact("step.retrying", step.name, attempt.number))

    def settle_canceled(self, name: str, now: datetime) -> bool:
        """Ends a step of a canceling run that waited only for a lost attempt's lease to run out."""
        step = self.steps[name]
        if self.run.state is not RunState.CANCELING or step.state is not StepState.RETRYING:
            return False
        if step.not_before is not None and step.not_before > now:
            return False
        self._put(steps.finish_canceled(step, now))
        self.facts.append(Fact("step.canceled", name, step.current_attempt))
        self._settle(now)
        return True

    def _ready_after(self, done: str, now: datetime) -> None:
        if self.run.state is RunState.CANCELING:
            return
        for name, step in list(self.steps.items()):
            if step.state is not StepState.PENDING or done not in step.dependencies:
                continue
            if all(self.steps[d].state in steps.DONE for d in step.dependencies):
                self._put(steps.make_ready(step, now))
                self.became_ready.append(name)

    def _skip_after(self, failed: str, now: datetime) -> None:
        """Skips everything that can no longer run; independent steps go on to their end."""
        dead = {failed}
        for step in sorted(self.steps.values(), key=lambda s: s.ordinal):
            if step.state is StepState.PENDING and dead.intersection(step.dependencies):
                dead.add(step.name)
                self._put(steps.skip(step, failed, now))
                self.facts.append(Fact("step.skipped", step.name))

    def _settle(self, now: datetime) -> None:
        states = self.rest.union(s.state for s in self.steps.values())
        if self.run.terminal or not states <= steps.TERMINAL:
            return
        state = settle(self.run.state, states)
        self._put_run(replace(self.run, state=state, end_time=now))
        self.facts.append(Fact(f"run.{state.value.lower()}"))

    def _put(self, step: Step) -> None:
        self.steps[step.name] = step
        self.changed_steps.add(step.name)

    def _put_attempt(self, attempt: Attempt) -> None:
        self.attempts[attempt.step, attempt.number] = attempt
        self.changed_attempts.add((attempt.step, attempt.number))

    def _put_run(self, run: Run) -> None:
        self.run = run
        self.run_changed = True


def settle(state: RunState, step_states: Iterable[StepState]) -> RunState:
    """The end of a run whose steps are all terminal. A cancel that came too late changes nothing."""
    ended = set(step_states)
    if ended <= steps.DONE:
        return RunState.SUCCEEDED
    if state is RunState.CANCELING or ended <= steps.DONE | {StepState.CANCELED}:
        return RunState.CANCELED
    return RunState.FAILED
