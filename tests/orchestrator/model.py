"""A model world: a control plane of plain data around the real domain rules, nodes that really run containers, and
everything that may go wrong between them.

Each action takes two numbers, which choose what it is about, so that hypothesis and a plain random walk can drive it.
Time is one true time; a node's monotonic clock follows it, its wall clock does not. What really runs is known to the nodes
alone (machines.py), and is held against what the control plane believes (truths.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain import scheduler
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.attempt import AttemptState, Output, Result
from animus_orchestrator.domain.errors import AgentRevoked, IdentityCloned, StaleAttempt
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.domain.retry import RetryPolicy
from animus_orchestrator.domain.run import Run, RunGraph, RunState
from animus_orchestrator.domain.step import Step, StepState
from tests.orchestrator.machines import (
    CPU,
    FAILURES,
    GPUS,
    LEASE,
    MARGIN,
    NODES,
    RUNS,
    STATES,
    STEPS,
    T0,
    Event,
    Key,
    Lease,
    Node,
    Nodes,
)  # fmt: skip
from tests.orchestrator.truths import Truths

Keep = Callable[["World", int, Callable[[RunGraph], object], tuple[str, str]], object]


class World(Nodes):
    """`act` does one thing and then holds the world against the truths. `keep` makes the changes of runs another way."""

    def __init__(self, keep: Keep | None = None) -> None:
        self.now = T0
        self.agents = {f"n{i}": Agent(f"n{i}", "default") for i in range(NODES)}
        self.nodes = {name: Node(name) for name in self.agents}
        self.graphs: dict[int, RunGraph] = {}
        self.leases: dict[Key, Lease] = {}
        self.given: dict[str, set[Key]] = {name: set() for name in self.agents}
        """Leased since the agent last listed what it holds."""
        self.stated: dict[str, tuple[int, tuple[str, ...]]] = dict.fromkeys(self.agents, (0, ()))
        self.spoke: dict[str, datetime] = dict.fromkeys(self.agents, T0)
        self.acked: dict[tuple[str, int], int] = {}
        self.runs = 0
        self.truths = Truths(self)
        self._keep = keep

    # -- driving ----------------------------------------------------------------------------------------------------

    def act(self, name: str, a: int, b: int) -> None:
        """Raises AssertionError when a truth does not hold afterwards."""
        before = dict(self.agents)
        getattr(self, name)(a, b)
        self.truths.check_agents(before)
        self.truths.check_world()

    def change(
        self,
        uid: int,
        what: Callable[[RunGraph], object],
        *,
        cancels: bool = False,
        hint: tuple[str, str] = ("whole", ""),
    ) -> object:
        """One transition of one run, and what it says happened. `hint`: how much of the run it needs ("whole", "part",
        "succeeds") and of which step. Raises StaleAttempt, having changed nothing."""
        graph = self.graphs[uid]
        was = self.truths.snapshot(graph)
        try:
            answer = self._keep(self, uid, what, hint) if self._keep else what(graph)
        except StaleAttempt:
            assert self.truths.snapshot(self.graphs[uid]) == was, "a stale attempt had an effect"
            assert not self.graphs[uid].facts
            raise
        self.truths.check_change(uid, was, cancels)
        return answer

    # -- people -----------------------------------------------------------------------------------------------------

    def submit(self, a: int, b: int) -> None:
        """A graph of up to five steps, its edges out of the bits of a; b: attempts, gpus, cpu."""
        if len(self.graphs) >= RUNS:
            done = [uid for uid, graph in self.graphs.items() if graph.run.terminal and not self._anybody_on(uid)]
            if not done:
                return
            self._drop(done[0])
        self.runs += 1
        policy = RetryPolicy(1 + b % 3, exponential=bool(b & 1), initial_seconds=1, max_seconds=30, multiplier=2)
        steps = {}
        for i in range(1 + a % STEPS):
            edges = tuple(f"s{j}" for j in range(i) if a >> (3 + i * 4 + j) & 1)
            state = StepState.PENDING if edges else StepState.READY
            steps[f"s{i}"] = Step(
                self.runs * 10 + i, f"s{i}", i, state, edges, policy,
                ready_time=None if edges else self.now, cpu_millis=1000 + 1000 * (b >> 2 + i & 1), gpus=(b >> 5 + i & 3) % 3,
            )  # fmt: skip
        self.graphs[self.runs] = RunGraph(Run(self.runs, "p", f"r{self.runs}", RunState.QUEUED), steps, {})
        self.truths.began(self.graphs[self.runs])

    def cancel(self, a: int, b: int) -> None:
        if (uid := self._run(a)) and b % 4 == 0:
            self.change(uid, lambda graph: graph.cancel(self.now), cancels=True)

    def refuse(self, a: int, b: int) -> None:
        """No contract can be made of a step."""
        if (uid := self._run(a)) and b % 16 == 0:
            name = self._step(uid, b >> 4)
            self.change(uid, lambda graph: graph.refuse(name, "CONTRACT_INVALID", "x", self.now))

    def decide(self, a: int, b: int) -> None:
        """What people decide about an agent."""
        name = f"n{a % NODES}"
        agent = self.agents[name]
        grace = timedelta(seconds=b % 100) if b & 1 else None
        acts = (
            lambda: agents.cordon(agent, "x"),
            *[lambda: agents.uncordon(agent)] * 7,
            lambda: agents.drain(agent, self.now, grace, "x"),
            lambda: agents.renew_identity(agent),
        )
        try:
            self.agents[name] = acts[b % len(acts)]()
        except AgentRevoked:
            assert agent.revoked
        except IdentityCloned:
            assert agent.cordoned == agents.IDENTITY_CLONED

    def revoke(self, a: int, b: int) -> None:
        """And a new machine takes the place of the old one, whose containers go on until they are fenced."""
        name = f"n{a % NODES}"
        if b % 4 == 0:
            self.agents[name] = agents.revoke(self.agents[name], self.now, "x")

    def replace_node(self, a: int, b: int) -> None:
        """A revoked agent whose machine has fallen silent makes room for one with another name."""
        name = next((n for n, one in self.agents.items() if one.revoked), "")
        if not name or self.nodes[name].held or self.nodes[name].orphans or self._anybody_of(name):
            return
        self.agents[name] = Agent(name, "default")
        self.nodes[name] = Node(name, instance=self.nodes[name].instance + 1, spool_id=self.nodes[name].spool_id + 1)
        self.truths.new_agent(name)

    # -- the server -------------------------------------------------------------------------------------------------

    def lease(self, a: int, b: int) -> None:
        """The next ready step that fits goes to one agent; its assignment may be lost."""
        name = f"n{a % NODES}"
        node, agent = self.nodes[name], self.agents[name]
        if not agent.session_open or agents.unschedulable(agent):
            return
        for uid, graph in self.graphs.items():
            for step in graph.steps.values():
                if step.state is StepState.READY and self._lease(node, uid, step, lost=b % 4 == 0):
                    return

    def _lease(self, node: Node, uid: int, step: Step, *, lost: bool) -> bool:
        need = scheduler.Need(step.uid, "p", "default", step.cpu_millis, 0, step.gpus)
        room = self._room(node.id)
        if scheduler.obstacle(need, room):
            return False
        _, gpus = scheduler.take(need, room)
        try:
            made = self.change(uid, lambda graph: graph.lease(step.name, node.id, self.now), hint=("part", step.name))
        except StaleAttempt:
            assert self.graphs[uid].run.state is RunState.CANCELING
            return False
        key = (uid, step.name, made.number)  # type: ignore[attr-defined]
        self.truths.check_lease(key, self.agents[node.id])
        self.leases[key] = Lease(node.id, self.agents[node.id].instance_id, self.now + LEASE, step.cpu_millis, gpus)
        self.given[node.id].add(key)
        if not lost and node.session == self.agents[node.id].session and not node.paused:
            self._accept(node, key)
        return True

    def _room(self, name: str) -> scheduler.Room:
        """What it stated, less what it was given since."""
        cpu, gpus = self.stated[name]
        for key in self.given[name]:
            cpu -= self.leases[key].cpu
            gpus = tuple(g for g in gpus if g not in self.leases[key].gpus)
        return scheduler.Room(name, "default", 16, cpu, 0, tuple(scheduler.Gpu(g) for g in gpus))

    def reap(self, a: int, b: int) -> None:
        """Leases that ran out, backoffs that passed, agents that were revoked or drained."""
        for key in self._live():
            lease, agent = self.leases[key], self.agents[self.leases[key].agent]
            if lease.until <= self.now:
                self._lose(key, "LEASE_EXPIRED", None)
            elif agent.revoked:
                self._lose(key, "AGENT_REVOKED", lease.until)
        for name, agent in self.agents.items():
            if agent.session_open and self.now - self.spoke[name] >= LEASE:
                agent = self.agents[name] = replace(agent, session_open=False)
            if agent.drain_until is not None and agent.drain_until <= self.now and not agent.preempting:
                self.agents[name] = replace(agent, preempting=True, revision=agent.revision + 1)
            elif agent.drain_time is not None and agent.drained_time is None and not self._anybody_of(name):
                self.agents[name] = replace(agent, drained_time=self.now, revision=agent.revision + 1)
        for uid, graph in self.graphs.items():
            waiting = [(n, s.not_before) for n, s in graph.steps.items() if s.state is StepState.RETRYING]
            # Those that are due, as dispatch asks for them, and now and then all the others.
            for name in [n for n, at in waiting if at is None or at <= self.now or b % 16 == 5]:
                if not self.change(uid, lambda g, name=name: g.settle_canceled(name, self.now)):
                    self.change(uid, lambda g, name=name: g.retry_due(name, self.now))

    def overdue(self, a: int, b: int) -> None:
        """Taken back although its lease runs, since it was renewed for far too long."""
        if live := [k for k in self._live() if self.leases[k].listed]:
            key = live[a % len(live)]
            if self.leases[key].until > self.now:
                self._lose(key, "OVERDUE", self.leases[key].until)

    def _lose(self, key: Key, reason: str, until: datetime | None) -> None:
        uid, step, number = key
        self.change(uid, lambda graph: graph.lose(step, number, self.now, reason=reason, message="", lease_until=until))
        if reason == "DISOWNED":
            self.given[self.leases[key].agent].discard(key)

    # -- between them -----------------------------------------------------------------------------------------------

    def connect(self, a: int, b: int) -> None:
        """A new session, sometimes of a copy of the agent that was seen before (b a multiple of 16)."""
        node = self._node(a)
        if node is None or self.agents[node.id].revoked:
            return
        past = self.agents[node.id].past_instances
        instance = past[b % len(past)] if past and b % 64 == 0 else f"{node.id}-{node.instance}"
        made = agents.connect(self.agents[node.id], instance)
        self.agents[node.id] = replace(made, clock_skew_seconds=node.skew, draining=b % 32 == 1)
        if instance != f"{node.id}-{node.instance}":
            return  # the copy; the node itself was superseded
        node.session = made.session
        self.given[node.id].clear()
        self._reconcile(node, hears=b % 4 != 0)

    def status(self, a: int, b: int) -> None:
        """The agent states all it holds; its answer may be lost."""
        node = self._node(a)
        if node is None:
            return
        agent = self.agents[node.id]
        if agent.revoked or not agent.session_open or node.session != agent.session:
            return
        self.agents[node.id] = replace(agent, clock_skew_seconds=node.skew)
        self._reconcile(node, hears=b % 4 != 0)

    def _reconcile(self, node: Node, *, hears: bool) -> None:
        stated_at = self.spoke[node.id] = self.now
        # What was lost before it was listed takes room until now: it may have arrived, and stand still there.
        live = set(self._live())
        self.given[node.id] = {k for k in self.given[node.id] if k in live and k not in node.held}
        used = [*node.held.values(), *node.orphans.values()]
        busy = {g for c in used for g in c.gpus}
        free = tuple(g for g in (f"{node.id}-g{i}" for i in range(GPUS)) if g not in busy)
        self.stated[node.id] = (CPU - sum(c.cpu for c in used), free)
        instance = self.agents[node.id].instance_id
        for key in self._live():
            lease = self.leases[key]
            if lease.agent != node.id:
                continue
            uid, step, number = key
            attempt = self.graphs[uid].attempts[step, number]
            if key in node.held:
                lease.until, lease.listed = self.now + LEASE, True
                if hears:
                    node.held[key].deadline = max(node.held[key].deadline, stated_at + LEASE - MARGIN)
                if hears and (attempt.state is AttemptState.CANCELING or self.agents[node.id].preempting):
                    why = FailureClass.CANCELED if attempt.state is AttemptState.CANCELING else FailureClass.PREEMPTED
                    state = AttemptState.CANCELED if why is FailureClass.CANCELED else AttemptState.FAILED
                    self._end(node, key, Result(state, why))
            elif any(e.key == key and e.result for e in node.spool):
                pass  # its end is on its way: what was heard of it last comes with the events
            elif lease.listed or attempt.ran or attempt.state is not AttemptState.LEASED or lease.instance != instance:
                self._lose(key, "DISOWNED", lease.until if lease.until > self.now else None)
            else:
                self.given[node.id].add(key)
                if hears:
                    self._accept(node, key)
        for key in [k for k in node.held if k not in self._live()]:
            if hears:
                del node.held[key]  # STALE: killed, and told nothing of

    def deliver(self, a: int, b: int) -> None:
        """The oldest events of a node; the acknowledgement may be lost, so that they come again."""
        node = self._node(a)
        if node is None or not node.spool:
            return
        agent = self.agents[node.id]
        if agent.revoked or not agent.session_open or node.session != agent.session:
            return
        for event in node.spool[: 1 + (b >> 2) % 4]:
            acked = self.acked.get((node.id, node.spool_id), 0)
            if event.seq > acked:
                self._apply(node.id, event)
                self.acked[node.id, node.spool_id] = event.seq
        if b % 4:
            node.spool = [e for e in node.spool if e.seq > self.acked.get((node.id, node.spool_id), 0)]

    def _apply(self, agent: str, event: Event) -> None:
        uid, step, number = event.key
        if uid not in self.graphs or self.leases[event.key].agent != agent:
            return
        try:
            if event.result is not None:
                ends_well = event.result.state is AttemptState.SUCCEEDED
                hint = ("succeeds", step) if ends_well else ("whole", "")
                self.change(uid, lambda graph: graph.finish(step, number, event.result, self.now), hint=hint)
                self.truths.committed(event.key, event.result)
                self.given[agent].discard(event.key)
            elif event.state is not None:
                self.change(uid, lambda graph: graph.report(step, number, event.state, self.now), hint=("part", step))
        except StaleAttempt:
            assert event.key not in self._live(), "a live attempt was called stale"

    def replay(self, a: int, b: int) -> None:
        """Something that an attempt said, or might have said, comes again at any later time."""
        ended = [k for k in self.leases if k[0] in self.graphs and k not in self._live()]
        if not ended:
            return
        key = ended[a % len(ended)]
        done = Result(AttemptState.SUCCEEDED, outputs=(Output("model", "sha256:" + "0" * 64, 1, 1),))
        failed = Result(AttemptState.FAILED, FAILURES[b % len(FAILURES)])
        uid, step, number = key
        tries: tuple[Callable[[RunGraph], object], ...] = (
            lambda graph: graph.finish(step, number, done, self.now),
            lambda graph: graph.finish(step, number, failed, self.now),
            lambda graph: graph.report(step, number, STATES[b % 3], self.now),
            lambda graph: graph.lose(step, number, self.now, reason="X", message="", lease_until=None),
            lambda graph: (
                graph.finish(step, number + 1 + b % 3, done, self.now)
                if (step, number + 1 + b % 3) not in graph.attempts
                else graph.finish(step, number, done, self.now)
            ),
        )
        try:
            self.change(uid, tries[b % len(tries)])
        except StaleAttempt:
            return
        raise AssertionError("an attempt that had ended was heard")

    # -- choosing ---------------------------------------------------------------------------------------------------

    def _run(self, a: int) -> int:
        return sorted(self.graphs)[a % len(self.graphs)] if self.graphs else 0

    def _step(self, uid: int, b: int) -> str:
        names = sorted(self.graphs[uid].steps)
        return names[b % len(names)]

    def _live(self) -> list[Key]:
        return [
            (uid, step, number)
            for uid, graph in self.graphs.items()
            for (step, number), attempt in graph.attempts.items()
            if not attempt.terminal
        ]

    def _anybody_on(self, uid: int) -> bool:
        return any(k[0] == uid for node in self.nodes.values() for k in (*node.held, *node.orphans))

    def _anybody_of(self, name: str) -> bool:
        return any(self.leases[k].agent == name for k in self._live())

    def _drop(self, uid: int) -> None:
        del self.graphs[uid]
        self.truths.dropped(uid)
        self.leases = {k: lease for k, lease in self.leases.items() if k[0] != uid}
        for node in self.nodes.values():
            node.spool = [e for e in node.spool if e.key[0] != uid]
        for keys in self.given.values():
            keys.difference_update([k for k in keys if k[0] == uid])
