"""The control plane is away for an hour: nothing is lost, nothing is told twice, nothing runs without a lease.

The hour is injected: the agent's clocks jump. Containers are real.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_agent import node
from animus_agent.identity import Identity
from animus_agent.loop import Agent
from animus_agent.settings import Settings
from animus_kit.ids import RandomIds
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import ControlPlane

pytestmark = requires_runc

State = run_pb2.Attempt.State
HOUR = 3600.0
LINES = 60


class JumpingClock:
    """The machine's clocks, and an hour when it is told so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Node:
    """An agent in this process, on a clock of its own."""

    def __init__(self, control: ControlPlane, folder: Path, driver: str = "runc") -> None:
        self.control, self.clock = control, JumpingClock()
        self.settings = Settings(
            agent_state_dir=folder / "state",
            agent_run_dir=folder / "run",
            agent_driver=driver,
            agent_root_key=control.folder / "root.pub",
            agent_tmpfs_volumes=True,
            agent_spare_volumes=0,
            agent_lease_margin=1.0,
        )
        self.settings.agent_state_dir.mkdir(mode=0o711)
        Identity(self.settings.agent_state_dir / "identity", self.clock, self.settings.agent_root_key).enroll(
            control.enrollment_endpoint, control.token
        )

    def live(self, story: Callable[[Agent], object]) -> None:
        """One life of the agent, while `story` happens to it."""

        async def both() -> None:
            agent = Agent(self.settings, self.clock, RandomIds())
            life = asyncio.create_task(agent.run())
            try:
                await story(agent)  # type: ignore[misc]
            finally:
                agent.stop()
                await life

        asyncio.run(both())


@pytest.fixture
def here(control: ControlPlane, node_dir: Path) -> Iterator[Node]:
    folder = node_dir / "node"
    folder.mkdir(mode=0o711)
    one = Node(control, folder)
    yield one
    node.purge(one.settings)


async def until(condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.02)


def counting(lines: int) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; sleep 0.05; done; "
                             "echo 1 > /animus/outputs/o/x")  # fmt: skip


def whole(lines: int) -> bytes:
    return b"".join(b"%d\n" % i for i in range(1, lines + 1))


def assert_told_in_order(control: ControlPlane, name: str) -> None:
    known = control.known[name]
    assert [result.state for result in known.results] == [State.STATE_SUCCEEDED], known.results
    assert known.states == [State.STATE_PREPARING, State.STATE_RUNNING, State.STATE_FINISHING]
    assert known.text == whole(LINES)
    assert control.applied == [(control.applied[0][0], seq) for seq in range(1, len(control.applied) + 1)]


def test_within_its_lease_an_agent_goes_on_and_delivers_all(control: ControlPlane, here: Node) -> None:
    """A platform that means to survive an hour lends for longer than that: steps begin, run and end meanwhile."""
    control.lease = 2 * HOUR

    async def story(agent: Agent) -> None:
        order = control.world.order(*counting(LINES), outputs=("o",), timeout=10 * 3600)
        known = control.assign(order)
        await until(lambda: known.text, "the first line")
        control.go_away()
        here.clock.ahead += HOUR
        # It goes on to its end; the upload is what it then waits with.
        directory = next(here.settings.agent_state_dir.joinpath("attempts").glob("an-*"))
        await until(lambda: list(directory.glob("exits/an-*")), "the container's end")
        assert not known.results and not agent._holdings.states()[0].state == State.STATE_FAILED
        here.clock.ahead += HOUR / 2
        control.come_back()
        await until(lambda: known.results and not control.held, "the result")
        assert_told_in_order(control, order[0])

    here.live(story)


def test_without_a_lease_it_stands_still_and_then_goes_on(control: ControlPlane, here: Node) -> None:
    """Nothing runs that could have been given to another node, and when it was not, nothing is lost."""
    control.lease = 5.0

    async def story(agent: Agent) -> None:
        order = control.world.order(*counting(LINES), outputs=("o",), timeout=60)
        known = control.assign(order)
        await until(lambda: known.text, "the first line")
        control.go_away()
        here.clock.ahead += control.lease
        driver = agent._parts.driver
        (container,) = driver.ids()
        await until(lambda: driver._cgroups.frozen(container), "the fence")
        directory = here.settings.agent_state_dir / "attempts" / container
        size = (directory / "log").stat().st_size
        here.clock.ahead += HOUR
        # The fence looks twice a second; with the hour behind it, it leaves what stands still alone.
        fence, looked = agent._holdings.fence, []
        agent._holdings.fence = lambda: (fence(), looked.append(True))  # type: ignore[method-assign]
        await until(lambda: len(looked) > 1, "the fence's look")
        assert (directory / "log").stat().st_size == size and not (directory / "kill.json").exists()
        control.come_back()
        await until(lambda: known.results and not control.held, "the result")
        # Its timeout is a minute: the hour did not count.
        assert_told_in_order(control, order[0])

    here.live(story)


def test_what_was_given_to_another_node_meanwhile_never_goes_on(control: ControlPlane, here: Node) -> None:
    control.lease = 5.0

    async def story(agent: Agent) -> None:
        order = control.world.order(*counting(10_000), timeout=3600)
        known = control.assign(order)
        await until(lambda: known.text, "the first line")
        control.go_away()
        here.clock.ahead += control.lease
        driver = agent._parts.driver
        (container,) = driver.ids()
        await until(lambda: driver._cgroups.frozen(container), "the fence")
        here.clock.ahead += HOUR
        log = here.settings.agent_state_dir / "attempts" / container / "log"
        size = log.stat().st_size
        del control.known[order[0]]
        held_open = log.open("rb")
        control.come_back()
        await until(lambda: not driver.ids() and not control.held and len(control.hellos) > 1, "its end")
        held_open.seek(0, 2)
        assert held_open.tell() == size
        held_open.close()
        assert known.results == []

    here.live(story)
