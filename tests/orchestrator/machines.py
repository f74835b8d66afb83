"""The nodes of the model world: what really runs on each, what its agent knows of it, and what becomes of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from animus_orchestrator.domain.attempt import AttemptState, Output, Result
from animus_orchestrator.domain.failure import FailureClass

T0 = datetime(2030, 1, 1, tzinfo=UTC)
LEASE, MARGIN, STANDSTILL = timedelta(seconds=60), timedelta(seconds=15), timedelta(seconds=300)
NODES, RUNS, STEPS = 3, 3, 5
CPU, GPUS = 4000, 2
FAILURES = sorted(set(FailureClass) - {FailureClass.LOST_NODE})
"""What an agent may report; only the server says LOST_NODE."""
STATES = (AttemptState.PREPARING, AttemptState.RUNNING, AttemptState.FINISHING)

Key = tuple[int, str, int]
"""Run, step and number of an attempt."""


@dataclass
class Container:
    """What a node holds for an attempt. `deadline`: it runs until then and no further, unless its lease is renewed."""

    deadline: datetime
    cpu: int
    gpus: tuple[str, ...]
    stage: int = 0


@dataclass
class Lease:
    """What the control plane knows of an attempt beyond its graph."""

    agent: str
    instance: str
    until: datetime
    cpu: int
    gpus: tuple[str, ...]
    listed: bool = False


@dataclass
class Event:
    seq: int
    key: Key
    state: AttemptState | None = None
    result: Result | None = None


@dataclass
class Node:
    """A machine. `held`: what its agent knows of; `orphans`: what still runs without its knowing. `paused`: stopped,
    with its containers going on and nobody to fence them."""

    id: str
    instance: int = 0
    session: int = 0
    skew: float = 0.0
    paused: bool = False
    held: dict[Key, Container] = field(default_factory=dict)
    orphans: dict[Key, Container] = field(default_factory=dict)
    known: set[Key] = field(default_factory=set)
    spool: list[Event] = field(default_factory=list)
    spool_id: int = 0
    seq: int = 0

    def say(self, key: Key, **what: object) -> None:
        self.seq += 1
        self.spool.append(Event(self.seq, key, **what))  # type: ignore[arg-type]


class Nodes:
    """What happens on nodes alone; the control plane hears of it when it is told."""

    now: datetime
    nodes: dict[str, Node]
    leases: dict[Key, Lease]

    def reap(self, a: int, b: int) -> None:
        raise NotImplementedError

    def _accept(self, node: Node, key: Key) -> None:
        """Work that comes too late, or that this node has had, is not taken."""
        lease = self.leases[key]
        deadline = lease.until - MARGIN
        if deadline > self.now and key not in node.known:
            node.known.add(key)
            node.held[key] = Container(deadline, lease.cpu, lease.gpus)

    def work(self, a: int, b: int) -> None:
        """A container goes a step further, or ends."""
        node = self._node(a)
        if node is None or not node.held:
            return
        key = sorted(node.held)[b % len(node.held)]
        container = node.held[key]
        if container.deadline <= self.now:
            return  # it stands still
        if container.stage < 3 and b % 8:
            node.say(key, state=STATES[container.stage])
            container.stage += 1
        elif container.stage == 3 and b % 3:
            self._end(node, key, Result(AttemptState.SUCCEEDED, outputs=(Output("model", "sha256:" + "0" * 64, 1, 1),)))
        else:
            failure = FAILURES[(b >> 4) % len(FAILURES)]
            state = AttemptState.CANCELED if failure is FailureClass.CANCELED else AttemptState.FAILED
            code = 1 if container.stage >= 2 and b & 1 else None
            self._end(node, key, Result(state, failure, exit_code=code))

    def _end(self, node: Node, key: Key, result: Result) -> None:
        """The end is told only when nothing runs any more."""
        del node.held[key]
        node.say(key, result=result)

    def restart(self, a: int, b: int) -> None:
        """The agent's process (containers go on), the machine (they do not), or its memory is lost (they do, unseen)."""
        node = self.nodes[f"n{a % NODES}"]
        node.instance += 1
        node.paused = False
        node.session = 0
        if b % 4 == 1:
            for key in list(node.held):
                self._end(node, key, Result(AttemptState.FAILED, FailureClass.LOST_CONTAINER))
            node.orphans.clear()
        elif b % 4 == 2:
            node.orphans |= node.held
            node.held, node.known, node.spool = {}, set(), []
            node.spool_id, node.seq = node.spool_id + 1, 0
        elif b % 4 == 3:
            node.held, node.known, node.orphans, node.spool = {}, set(), {}, []
            node.spool_id, node.seq = node.spool_id + 1, 0
        self._fence(node)

    def pause(self, a: int, b: int) -> None:
        """SIGSTOP, or its end."""
        node = self.nodes[f"n{a % NODES}"]
        node.paused = b % 4 == 0
        self._fence(node)

    def skew(self, a: int, b: int) -> None:
        """Its wall clock jumps."""
        self.nodes[f"n{a % NODES}"].skew = (0.0, 0.0, 0.0, 0.0, 3600.0, -7.0, -4000.0, 0.0)[b % 8]

    def tick(self, a: int, b: int) -> None:
        """Time passes: a little, or beyond a lease. Nodes fence first: their leases are the shorter ones."""
        self.now += timedelta(seconds=(1, 1, 2, 2, 5, 5, 20, 70)[a % 8])
        for node in self.nodes.values():
            self._fence(node)
        if b & 1:
            self.reap(a, b)

    def _fence(self, node: Node) -> None:
        if node.paused:
            return
        # Beyond its deadline a container stands still, and goes on if its lease is renewed after all.
        for key in [k for k, c in node.held.items() if c.deadline + STANDSTILL <= self.now]:
            self._end(node, key, Result(AttemptState.FAILED, FailureClass.INFRASTRUCTURE, reason="LEASE_EXPIRED"))
        node.orphans = {k: c for k, c in node.orphans.items() if c.deadline > self.now}

    def _node(self, a: int) -> Node | None:
        """One that is not stopped."""
        node = self.nodes[f"n{a % NODES}"]
        return None if node.paused else node
