"""What must hold of the model world, whatever was done to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain import step as steps
from animus_orchestrator.domain.agent import Agent, AgentState
from animus_orchestrator.domain.attempt import Attempt, AttemptState, Result
from animus_orchestrator.domain.retry import MAX_EARLY_LOSSES
from animus_orchestrator.domain.run import Run, RunGraph, RunState
from animus_orchestrator.domain.step import Step, StepState
from tests.orchestrator.machines import CPU, Key

if TYPE_CHECKING:
    from tests.orchestrator.model import World

A, S, R = AttemptState, StepState, RunState
_ENDS = {A.SUCCEEDED, A.FAILED, A.CANCELED, A.LOST}
ATTEMPT_MOVES = {
    A.LEASED: {A.PREPARING, A.RUNNING, A.FINISHING, A.CANCELING, *_ENDS},
    A.PREPARING: {A.RUNNING, A.FINISHING, A.CANCELING, *_ENDS},
    A.RUNNING: {A.FINISHING, A.CANCELING, *_ENDS},
    A.FINISHING: {A.CANCELING, *_ENDS},
    A.CANCELING: _ENDS,
}
_OVER = {S.SUCCEEDED, S.FAILED, S.RETRYING, S.CANCELED}
STEP_MOVES = {
    S.PENDING: {S.READY, S.SKIPPED, S.CANCELED},
    S.READY: {S.LEASED, S.FAILED, S.CANCELED},
    S.LEASED: {S.RUNNING, S.CANCELING, *_OVER},
    S.RUNNING: {S.CANCELING, *_OVER},
    # Back to RETRYING: lost while it was being canceled, and not known dead before its lease has run out.
    S.CANCELING: {S.SUCCEEDED, S.CANCELED, S.RETRYING},
    S.RETRYING: {S.READY, S.CANCELED},
}
_DONE = {R.SUCCEEDED, R.FAILED, R.CANCELED}
RUN_MOVES = {R.QUEUED: {R.RUNNING, R.CANCELING, *_DONE}, R.RUNNING: {R.CANCELING, *_DONE}, R.CANCELING: _DONE}

# Not read from the code under test: the design's half hour.
SKEW_SECONDS = 1800

Snapshot = tuple[Run, dict[str, Step], dict[tuple[str, int], Attempt]]


class Truths:
    """`transitions` counts changes of state of runs, steps, attempts and agents."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.transitions = 0
        self.kinds: Counter[str] = Counter()
        self._commits: Counter[tuple[int, str]] = Counter()
        self._numbers: dict[tuple[int, str], int] = {}

    def snapshot(self, graph: RunGraph) -> Snapshot:
        return graph.run, dict(graph.steps), dict(graph.attempts)

    def began(self, graph: RunGraph) -> None:
        self._moved("run", graph.run.state)

    def dropped(self, uid: int) -> None:
        self._commits = Counter({k: n for k, n in self._commits.items() if k[0] != uid})
        self._numbers = {k: n for k, n in self._numbers.items() if k[0] != uid}

    def committed(self, key: Key, result: Result) -> None:
        """Called for each result that was taken."""
        if result.state is A.SUCCEEDED:
            self._commits[key[:2]] += 1
            assert self._commits[key[:2]] == 1, f"{key[:2]} committed twice"

    # -- around one change of a run ---------------------------------------------------------------------------------

    def check_change(self, uid: int, was: Snapshot, cancels: bool) -> None:
        graph = self._world.graphs[uid]
        run, old_steps, old_attempts = was
        expected: Counter[tuple[str, str, int]] = Counter()
        self._check_moves(graph, was)
        for name, step in graph.steps.items():
            expected.update(self._step_facts(old_steps[name], step, run))
        for (name, number), attempt in graph.attempts.items():
            expected.update(self._attempt_facts(name, number, old_attempts.get((name, number)), attempt))
        if cancels and run.state in (R.QUEUED, R.RUNNING):
            expected["run.cancel-requested", "", 0] += 1
        if graph.run.terminal and not run.terminal:
            expected[f"run.{graph.run.state.value.lower()}", "", 0] += 1
        told = Counter((f.kind, f.step, f.attempt) for f in graph.facts)
        assert told == expected, f"told {told}, but {expected} happened"
        graph.facts.clear()
        for name in graph.became_ready:
            assert graph.steps[name].state is S.READY
        graph.became_ready.clear()
        self._check_graph(graph)

    def _check_moves(self, graph: RunGraph, was: Snapshot) -> None:
        run, old_steps, old_attempts = was
        if graph.run.state is not run.state:
            assert graph.run.state in RUN_MOVES.get(run.state, ()), f"run {run.state} → {graph.run.state}"
            self._moved("run", graph.run.state)
        for name, step in graph.steps.items():
            before = old_steps[name]
            if step.state is not before.state:
                assert step.state in STEP_MOVES.get(before.state, ()), f"step {before.state} → {step.state}"
                self._moved("step", step.state)
                if step.state is S.CANCELED:
                    self._nobody_runs(graph, name, "a canceled step")
            elif before.terminal:
                assert step == before, "a terminal step changed"
            assert step.current_attempt >= before.current_attempt
        for key, attempt in graph.attempts.items():
            old = old_attempts.get(key)
            if old is None or attempt.state is not old.state:
                assert old is None or attempt.state in ATTEMPT_MOVES.get(old.state, ()), f"{old} → {attempt.state}"
                self._moved("attempt", attempt.state)
            else:
                assert not old.terminal or attempt == old, "a terminal attempt changed"
                assert attempt.ran >= old.ran
        assert old_attempts.keys() <= graph.attempts.keys()

    def _step_facts(self, old: Step, new: Step, run: Run) -> Iterator[tuple[str, str, int]]:
        if old.state is new.state:
            return
        number = new.current_attempt
        if new.state is S.FAILED:
            yield "step.failed", new.name, number if old.state is not S.READY else 0
        elif new.state is S.SKIPPED:
            yield "step.skipped", new.name, 0
        elif new.state is S.CANCELED:
            yield "step.canceled", new.name, number
        elif new.state is S.RETRYING and run.state is not R.CANCELING:
            yield "step.retrying", new.name, number

    def _attempt_facts(
        self, name: str, number: int, old: Attempt | None, new: Attempt
    ) -> Iterator[tuple[str, str, int]]:
        if old is None:
            yield "attempt.leased", name, number
        if new.ran and not (old and old.ran):
            yield "attempt.started", name, number
        if new.terminal and not (old and old.terminal):
            yield "attempt.committed" if new.state is A.SUCCEEDED else "attempt.failed", name, number

    def _check_graph(self, graph: RunGraph) -> None:
        assert graph.run.terminal == all(s.terminal for s in graph.steps.values()), "a run ends with its steps"
        assert graph.run.terminal == (graph.run.end_time is not None)
        if graph.run.state is R.SUCCEEDED:
            assert all(s.state in steps.DONE for s in graph.steps.values())
        for name, step in graph.steps.items():
            mine = [a for (s, _), a in graph.attempts.items() if s == name]
            living = [a for a in mine if not a.terminal]
            assert len(living) <= 1 and (step.state in steps.HELD) == bool(living)
            assert not living or living[0].number == step.current_attempt
            assert [a.number for a in mine] == list(range(1, step.current_attempt + 1))
            ran = sum(a.ran for a in mine)
            assert step.ran_attempts == ran <= step.retry.max_attempts, "more attempts ran than may"
            assert step.early_losses <= MAX_EARLY_LOSSES + 1, "lost without end"
            assert len(mine) <= step.retry.max_attempts + MAX_EARLY_LOSSES + 1, "tried without end"
            assert step.terminal == (step.end_time is not None)
            done = [a for a in mine if a.state is A.SUCCEEDED]
            assert len(done) == (step.state is S.SUCCEEDED), "one committed result makes a step, and no step has two"
            if step.state in (S.READY, S.LEASED, S.RUNNING, S.SUCCEEDED):
                assert all(graph.steps[d].state in steps.DONE for d in step.dependencies)
            if step.state is S.PENDING:
                over = [d for d in step.dependencies if graph.steps[d].state in (S.FAILED, S.SKIPPED, S.CANCELED)]
                assert not over, "a step waits for what cannot come any more"
            if step.state is S.SKIPPED:
                assert any(graph.steps[d].state in (S.FAILED, S.SKIPPED) for d in step.dependencies)

    # -- what really runs -------------------------------------------------------------------------------------------

    def check_lease(self, key: Key, agent: Agent) -> None:
        """A retry never starts before the former attempt is dead or its lease has run out."""
        uid, step, number = key
        graph = self._world.graphs[uid]
        assert number == self._numbers.get((uid, step), 0) + 1, "a number was given out again"
        self._numbers[uid, step] = number
        self._nobody_runs(graph, step, "a new attempt")
        for (name, former), attempt in graph.attempts.items():
            if name == step and former < number and attempt.state is A.LOST:
                lease = self._world.leases[uid, step, former]
                assert lease.until <= self._world.now, "the former lease still runs"
        assert not agent.revoked and not agent.cordoned and agent.drain_time is None and not agent.draining
        assert abs(agent.clock_skew_seconds) <= SKEW_SECONDS

    def _nobody_runs(self, graph: RunGraph, step: str, what: str) -> None:
        """A node that was stopped cannot fence itself; then the fence in the plane alone holds."""
        for node in self._world.nodes.values():
            if not node.paused:
                held = [*node.held.items(), *node.orphans.items()]
                running = [k for k, c in held if k[:2] == (graph.run.uid, step) and c.deadline > self._world.now]
                assert not running, f"{what} while {running} runs on {node.id}"

    def check_world(self) -> None:
        for node in self._world.nodes.values():
            used = [*node.held.values(), *node.orphans.values()]
            assert sum(c.cpu for c in used) <= CPU, f"{node.id} was given more than it has"
            gpus = [g for c in used for g in c.gpus]
            assert len(gpus) == len(set(gpus)), f"a GPU of {node.id} was given twice"
            assert all(g.startswith(f"{node.id}-") for g in gpus)

    # -- agents -----------------------------------------------------------------------------------------------------

    def new_agent(self, name: str) -> None:
        self._moved("agent", AgentState.ENROLLED)
        self._fresh = name

    _fresh = ""

    def check_agents(self, before: dict[str, Agent]) -> None:
        for name, agent in self._world.agents.items():
            old = before[name]
            if agent is old:
                continue
            if name == self._fresh:
                self._fresh = ""
                continue
            shown, why = agents.state(agent)
            was, _ = agents.state(old)
            if shown is not was:
                self._moved("agent", shown)
            assert was is not AgentState.REVOKED or shown is AgentState.REVOKED, "a revoked agent came back"
            assert agent.session >= old.session and agent.revision >= old.revision
            assert shown is not AgentState.ENROLLED or old.session == 0 or old.session == agent.session
            decided = (old.cordoned, old.drain_time, old.revoked, old.preempting)
            if decided != (agent.cordoned, agent.drain_time, agent.revoked, agent.preempting):
                assert agent.revision > old.revision, "a decision without a trace"
            if shown in (AgentState.REVOKED, AgentState.CORDONED, AgentState.DRAINING, AgentState.DRAINED):
                assert why, f"{shown} without a reason"
            if old.cordoned == agents.IDENTITY_CLONED and agent.cordoned != old.cordoned:
                assert agent.cordoned == agents.IDENTITY_RENEWED and agent.session > old.session
            if agent.instance_id != old.instance_id and agent.instance_id in old.past_instances:
                assert agent.cordoned == agents.IDENTITY_CLONED, "a copy was let in"

    def _moved(self, what: str, state: object) -> None:
        self.transitions += 1
        self.kinds[f"{what}.{state}"] += 1
