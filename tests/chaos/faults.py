"""What is done to the system: which faults there are, the schedule of a seed, and the storm that carries it out."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.history import Fault, Skew
from tests.chaos.world import LEASE_SECONDS, Node, World

SERVICES = ("policy", "audit", "catalog", "lineage", "orchestrator", "dispatch")
HOUR = 3600.0
# Longer than a lease: the services give the node's work to others.
BEYOND_LEASE = LEASE_SECONDS + 3.0
MANAGER_SECONDS = 0.5
CONMON_SECONDS = 10.0
# Within which the services show that a clock is wrong, unless they or the node are down.
NOTICED_SECONDS = 20.0
KINDS = (
    *(f"kill-{name}" for name in SERVICES),
    "kill-gateway",
    "kill-envoy",
    "kill-postgres",
    "kill-agent",
    "pause-agent",
    "kill-conmon",
    "cut-link",
    "swallow-packets",
    "lose-messages",
    "shift-clock",
)
# Comes so many times as often as the others: these reach into leases, fencing and adoption.
WEIGHTS = {"kill-dispatch": 2, "kill-agent": 2, "pause-agent": 2, "kill-conmon": 3, "cut-link": 2, "lose-messages": 2}


@dataclass(frozen=True)
class Planned:
    """One fault to come: at seconds after the beginning, on the node of that index where the kind has nodes."""

    at: float
    kind: str
    node: int
    seconds: float


def schedule(seed: int, nodes: int, until: float, gap: float) -> list[Planned]:
    """The faults of a seed, always the same: first each kind once, then decks of all kinds by their weight, each
    shuffled; one fault after another in about `gap` seconds, up to `until`."""
    choice = random.Random(seed)
    deck = choice.sample(KINDS, len(KINDS))
    planned: list[Planned] = []
    at = choice.uniform(0, gap)
    while at < until:
        if not deck:
            deck = [kind for kind in KINDS for _ in range(WEIGHTS.get(kind, 1))]
            choice.shuffle(deck)
        kind = deck.pop()
        planned.append(Planned(at, kind, choice.randrange(nodes), _seconds(kind, choice)))
        at += choice.uniform(0.3, 1.7) * gap
    return planned


def brief(seed: int, nodes: int, kinds: tuple[str, ...], gap: float) -> list[Planned]:
    """Each of these kinds once, in the seed's order."""
    choice = random.Random(seed)
    order = list(kinds)
    choice.shuffle(order)
    return [
        Planned(gap * (number + 0.5), kind, choice.randrange(nodes), min(_seconds(kind, choice), LEASE_SECONDS + 2))
        for number, kind in enumerate(order)
    ]


def _seconds(kind: str, choice: random.Random) -> float:
    """How long it lasts."""
    match kind:
        case "kill-agent":
            return choice.choice((0.0, 0.5, 2.0, BEYOND_LEASE))
        case "pause-agent":
            return choice.choice((2.0, BEYOND_LEASE, BEYOND_LEASE + 3))
        case "cut-link" | "swallow-packets":
            return choice.choice((1.0, 4.0, 8.0, BEYOND_LEASE))
        case "lose-messages" | "shift-clock":
            return choice.uniform(5, 12)
        case _:
            return choice.choice((0.0, 0.5, 3.0))


@dataclass
class Storm:
    """Carries out a schedule, each fault on a thread of its own. A fault whose target is still suffering from the one
    before is left out, and counted as such."""

    world: World
    planned: list[Planned]
    done: list[Fault] = field(default_factory=list)
    skews: list[Skew] = field(default_factory=list)
    left_out: list[Planned] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    revived: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._calm = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._main = threading.Thread(target=self._go_through, name="storm", daemon=True)
        self._manager = threading.Thread(target=self._manage, name="manager", daemon=True)

    def start(self) -> None:
        self._main.start()
        self._manager.start()

    def over(self) -> bool:
        return not self._main.is_alive()

    def stop(self) -> None:
        """No further fault, and those that go on end now. Returns when everything was started again."""
        self._calm.set()
        for thread in (self._main, *self._threads):
            thread.join(120)

    def end(self) -> None:
        """Nothing is started again from now on."""
        self._ended.set()
        self._manager.join(60)

    def _manage(self) -> None:
        """What a service manager does: whatever has ended by itself is started again. A service may end so, when at its
        start another is down; an agent must not, since its node is well."""
        while not self._ended.wait(MANAGER_SECONDS):
            for node in self.world.nodes:
                if self._take(f"{node.name}/agent"):
                    if (status := node.died()) is not None:
                        self.troubles.append(f"the agent of {node.name} ended by itself with status {status}")
                    self._busy.discard(f"{node.name}/agent")
            for name in self.world.ended():
                if self._take(name):
                    try:
                        self.world.start_service(name)
                        self.revived[name] += 1
                    except Exception as error:
                        self.troubles.append(f"{name} could not be started again: {error}")
                    self._busy.discard(name)

    def _take(self, what: str) -> bool:
        """Whether nobody else has it in hand."""
        with self._lock:
            if what in self._busy:
                return False
            self._busy.add(what)
            return True

    def _go_through(self) -> None:
        began = time.monotonic()
        for planned in self.planned:
            if self._calm.wait(max(0.0, began + planned.at - time.monotonic())):
                return
            thread = threading.Thread(target=self._suffer, args=(planned,), name=planned.kind, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _suffer(self, planned: Planned) -> None:
        node = self.world.nodes[planned.node]
        what, act = self._act(planned, node)
        if not self._take(what):
            self.left_out.append(planned)
            return
        since = time.time()
        try:
            happened = act()
            target = node.name if what.startswith(node.name) else what
            if happened:
                self.done.append(Fault(planned.kind, target, since, time.time(), f"{planned.seconds:.1f} s"))
            else:
                self.left_out.append(planned)
        except Exception:
            self.troubles.append(f"{planned.kind}: {traceback.format_exc(limit=-2)[-1500:]}")
        finally:
            self._busy.discard(what)

    def _act(self, planned: Planned, node: Node) -> tuple[str, Callable[[], bool]]:
        """What suffers, and how. The act tells whether it happened."""
        seconds = planned.seconds
        kind = planned.kind
        match kind:
            case "kill-envoy":
                return "gateway", lambda: self._kill_envoy(seconds)
            case "kill-postgres":
                return "postgres", self._kill_postgres
            case "kill-agent":
                return f"{node.name}/agent", lambda: self._kill_agent(node, seconds)
            case "pause-agent":
                return f"{node.name}/agent", lambda: self._pause_agent(node, seconds)
            case "kill-conmon":
                return f"{node.name}/conmon", lambda: self._kill_conmon(node)
            case "cut-link":
                return f"{node.name}/link", lambda: self._between(node.link.cut, node.link.plug, seconds)
            case "swallow-packets":
                share = 1.0 if planned.at % 2 < 1 else 0.2
                return f"{node.name}/link", lambda: self._between(
                    lambda: node.link.swallow(share), node.link.swallow_no_more, seconds
                )
            case "lose-messages":
                return f"{node.name}/stream", lambda: self._between(
                    lambda: node.weather(drop=0.25, double=0.25), lambda: node.weather(drop=0, double=0), seconds
                )
            case "shift-clock":
                hours = HOUR if planned.at % 2 < 1 else -HOUR
                return f"{node.name}/clock", lambda: self._shift_clock(node, hours, seconds)
            case _:
                service = kind.removeprefix("kill-")
                return service, lambda: self._kill_service(service, seconds)

    def _between(self, begin: Callable[[], None], end: Callable[[], None], seconds: float) -> bool:
        begin()
        try:
            self._calm.wait(seconds)
        finally:
            end()
        return True

    def _kill_service(self, name: str, seconds: float) -> bool:
        kill, start = self.world.kill_service, self.world.start_service
        return self._between(lambda: kill(name), lambda: start(name), seconds)

    def _kill_envoy(self, seconds: float) -> bool:
        pid = self.world.envoy()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self._between(lambda: None, lambda: self.world.start_service("gateway"), seconds)

    def _kill_postgres(self) -> bool:
        self.world.kill_database()
        return True

    def _kill_agent(self, node: Node, seconds: float) -> bool:
        return self._between(node.kill, node.start, seconds)

    def _pause_agent(self, node: Node, seconds: float) -> bool:
        return self._between(lambda: node.signal(signal.SIGSTOP), lambda: node.signal(signal.SIGCONT), seconds)

    def _kill_conmon(self, node: Node) -> bool:
        """Any that runs, once there is one; of the node, or else of another."""
        deadline = time.monotonic() + CONMON_SECONDS
        while time.monotonic() < deadline and not self._calm.is_set():
            for pid in node.conmons() or [pid for one in self.world.nodes for pid in one.conmons()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
            self._calm.wait(0.1)
        return False

    def _shift_clock(self, node: Node, offset: float, seconds: float) -> bool:
        """Held against the services' own word: what counts is from when on they knew."""
        node.weather(clock_offset=offset)
        try:
            deadline = time.monotonic() + NOTICED_SECONDS
            while not self._calm.is_set() and time.monotonic() < deadline:
                shown = self.world.agent(node)
                if shown.get("stateReason") == "CLOCK_SKEW":
                    since = time.time()
                    self._calm.wait(seconds)
                    self.skews.append(Skew(node.name, since, time.time(), tuple(shown.get("attempts", ()))))
                    return True
                self._calm.wait(0.1)
            return False
        finally:
            node.weather(clock_offset=0)
