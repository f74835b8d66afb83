"""kill -9 of a real agent with real containers: between every two steps of the list, at lines of its code, at any time.

Whatever it was doing, the next process goes on with it: no container is created twice, none is left, each attempt has
one end, and its log is whole.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_agent.attempt.directory import identifier
from animus_agent.testing import World
from animus_kit.documents import manifest
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import AgentProcess, ControlPlane, Known, until
from tests.agent.dying import BOUNDARIES

State = run_pb2.Attempt.State
Failure = run_pb2.Attempt.FailureClass

POINTS = int(os.environ.get("ANIMUS_TEST_KILL_POINTS", "100"))
"""How many deaths, each of one attempt at one point. ANIMUS_TEST_SEED repeats a choice of points."""
AT_ONCE = len(BOUNDARIES)
SCRIPT = "echo begin; sleep 0.2; cat /animus/inputs/data/a > /animus/outputs/o/x; echo done"
# Between these the driver has marked the container and cannot know whether it was created: LOST is the true answer.
AT_CREATION = ("sandbox/runc.py:",)


def could_not_fork(known: Known) -> bool:
    """On a machine under a heavy load the kernel may refuse a step its process: the step's failure, rightly told."""
    return known.results[0].reason == "NONZERO_EXIT" and b"can't fork" in known.text


class Node:
    """An agent that is killed and started again, and a count of the containers that it creates."""

    def __init__(self, control: ControlPlane, folder: Path) -> None:
        self.control, self.folder = control, folder
        self.known: dict[str, Known] = {}
        bin = folder / "bin"
        bin.mkdir()
        real = shutil.which("conmon")
        # Written before conmon begins, outside of everything that the agent keeps.
        (bin / "conmon").write_text(f'#!/bin/sh\necho "$4" >> {folder}/created\nexec {real} "$@"\n')
        (bin / "conmon").chmod(0o755)
        self.deaths = folder / "deaths"
        self.deaths.touch()
        self.tree = control.world.blobs.put_tree({"a": b"alpha"})
        self.agent = AgentProcess(
            control,
            folder,
            "runc",
            "tests.agent.dying",
            PATH=f"{bin}:{os.environ['PATH']}",
            DYING_LOG=str(self.deaths),
            ANIMUS_AGENT_MAX_ATTEMPTS="64",
            ANIMUS_AGENT_CPU_MILLIS="64000",
            ANIMUS_AGENT_MEMORY_BYTES=str(64 << 30),
            ANIMUS_AGENT_SPARE_VOLUMES="0",
        )

    def assign(self, count: int) -> None:
        for _ in range(count):
            order = self.control.world.order(
                "/bin/sh", "-c", SCRIPT, inputs={"data": self.tree}, outputs=("o",), timeout=120
            )
            self.known[order[0]] = self.control.assign(order)

    def live(self, **how: str) -> None:
        """One life: until it has killed itself."""
        self.agent.start(**how)
        self.agent.process.wait(60)

    def heard(self) -> int:
        """How many events have come from it: whatever it does next follows one of them closely."""
        return sum(len(known.states) + len(known.log) + len(known.results) for known in self.known.values())

    def died(self) -> list[str]:
        """`<attempt's id> <point>` for every attempt that a death cut."""
        return self.deaths.read_text().splitlines()

    def created(self) -> list[str]:
        lines = (self.folder / "created").read_text().split()
        return [line for line in lines if "canary" not in line]

    def settle(self) -> None:
        """A life without a death, to the end of everything."""
        self.agent.start()
        until(
            lambda: all(known.results for known in self.known.values()) and not self.control.held,
            "the end of every attempt", 60, show=lambda: self.agent.log,
        )  # fmt: skip

    def check(self) -> None:
        points = {id: [] for id in map(identifier, self.known)}
        for line in self.died():
            id, _, point = line.partition(" ")
            points[id].append(point)
        created = self.created()
        for name, known in self.known.items():
            id = identifier(name)
            story = f"{name} ({points[id]}): {known.results} {known.text!r}"
            assert len(known.results) == 1, story
            assert created.count(id) <= 1, f"created twice: {story}"
            if could_not_fork(known):
                continue
            if known.results[0].state == State.STATE_SUCCEEDED:
                assert created.count(id) == 1 and known.text == b"begin\ndone\n", story
                (output,) = known.results[0].outputs
                entries = manifest.loads(self.control.world.blobs.written[output.manifest_digest], manifest.ARTIFACT)
                assert [(entry.path, entry.size) for entry in entries] == [("x", 5)], story
            else:
                assert known.results[0].failure_class == Failure.FAILURE_CLASS_LOST_CONTAINER, story
                assert any(point.startswith(AT_CREATION) for point in points[id]), story
                assert known.text in (b"", b"begin\n", b"begin\ndone\n"), story
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        state, run = self.folder / "state", self.folder / "run"
        # Volumes are removed off the path.
        until(lambda: not list((state / "volumes").glob("v*")), "the volumes' removal")
        assert list((state / "attempts").iterdir()) == []
        assert list((run / "runc").iterdir()) == []
        assert str(state / "volumes") not in Path("/proc/self/mountinfo").read_text()
        parent = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]
        assert list(Path("/sys/fs/cgroup").glob(f"*/animus/{parent}/an-*")) == []
        assert self.processes() == []

    def processes(self) -> list[str]:
        """What else than the agent still runs on this node's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.agent.process.pid:
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.folder) in command:
                    found.append(command.decode(errors="replace"))
        return found


@pytest.fixture
def node(fake_world: World, node_dir: Path, tmp_path: Path) -> Iterator[Node]:
    control = ControlPlane(tmp_path, fake_world)
    # Deaths and restarts are not to run into the lease.
    control.lease = 120.0
    folder = node_dir / "node"
    folder.mkdir(mode=0o711)
    node = Node(control, folder)
    yield node
    node.agent.close()
    control.close()


@requires_runc
def test_kill_between_every_two_steps_and_at_random_lines(node: Node) -> None:
    seed = int(os.environ.get("ANIMUS_TEST_SEED", random.randrange(1 << 30)))
    print(f"ANIMUS_TEST_SEED={seed}")
    until(lambda: node.control.hellos, "the first life", show=lambda: node.agent.log)
    node.agent.kill()
    node.assign(AT_ONCE)
    node.live(DYING_MODE="steps", DYING_WANTED=str(AT_ONCE))
    assert sorted(line.partition(" before ")[2] for line in node.died()) == sorted(BOUNDARIES)
    chance = random.Random(seed)
    while len(node.died()) < POINTS:
        waiting = sum(not known.results for known in node.known.values())
        node.assign(max(0, AT_ONCE - waiting))
        node.live(DYING_MODE="lines", DYING_WANTED=str(AT_ONCE), DYING_SEED=str(chance.random()))
    node.settle()
    node.check()


@requires_runc
def test_kill_at_any_time(node: Node) -> None:
    """Not at a line: in system calls, in libraries, while runc and conmon are at work."""
    seed = int(os.environ.get("ANIMUS_TEST_SEED", random.randrange(1 << 30)))
    print(f"ANIMUS_TEST_SEED={seed}")
    chance = random.Random(seed)
    until(lambda: node.control.hellos, "the first life", show=lambda: node.agent.log)
    for _ in range(4):
        node.assign(6)
        heard = node.heard() + chance.randrange(30)
        until(lambda heard=heard: node.heard() >= heard, "so much news", 60, show=lambda: node.agent.log)
        node.agent.kill()
        node.agent.start()
    node.agent.kill()
    node.settle()
    for name, known in node.known.items():
        lost = known.results[0].failure_class == Failure.FAILURE_CLASS_LOST_CONTAINER
        assert len(known.results) == 1 and node.created().count(identifier(name)) <= 1
        if could_not_fork(known):
            continue
        assert lost or known.results[0].state == State.STATE_SUCCEEDED, (name, known.text, known.results)
        assert known.text == b"begin\ndone\n" or lost
    node.check_nothing_left()
