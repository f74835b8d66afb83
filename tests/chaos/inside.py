"""One chaos run, from the inside of its enclosure: up, load and storm, rest, collect, down, check, report."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import checker, collect, faults, load, netns
from tests.chaos.faults import Storm
from tests.chaos.history import Asked, History
from tests.chaos.world import Refused, World
from tests.system.world import TERMINAL, Project

PROJECT = "chaos"
# So many runs at once: enough that every node is busy, few enough that a step is not late for want of a core.
AT_ONCE = 16
POLL_SECONDS = 0.5
# On a slower machine, or a busy one, faults come as much more seldom: it needs the time to come back from each.
USUAL_START_SECONDS = 15.0
SLOWEST_PACE = 2.5
COLLECT_SECONDS = 45.0
REST_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 nothing is wrong, 1 the checker found something, or the run itself failed."""
    given = _parser().parse_args(arguments)
    history = History(given.seed)
    world = World(Path(given.root))
    began = time.monotonic()
    storm: Storm | None = None
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, given.seconds)
    try:
        world.up()
        project, versions, dataset = prepare(world, Path(given.root) / "image")
        ready = time.monotonic() - began
        pace = min(max(1.0, ready / USUAL_START_SECONDS), SLOWEST_PACE)
        print(f"chaos: seed {given.seed}, {given.runs} runs; ready after {ready:.0f} s, pace {pace:.1f}", flush=True)
        storm = Storm(world, plan(given, len(world.nodes), pace))
        storm.start()
        submit(world, project, versions, dataset, given, history)
        settle(world, project, storm, given, history)
        print(f"chaos: every run has ended after {time.monotonic() - began:.0f} s", flush=True)
        rest(world, project, history)
    except (KeyboardInterrupt, Exception):
        history.troubles.append(traceback.format_exc(limit=-3)[-2500:])
    if storm is not None:
        finish(world, storm, history)
    close(world, history)
    history.seconds = time.monotonic() - began
    wrong = checker.check(history) + ([] if given.brief else missing_kinds(history))
    keep(world, history, Path(given.keep), bool(wrong))
    report(history, world, storm, wrong)
    return 1 if wrong else 0


def finish(world: World, storm: Storm, history: History) -> None:
    """Everything that can be read is, also when the run came to no good end: what was in order then is still proved."""
    signal.setitimer(signal.ITIMER_REAL, COLLECT_SECONDS)
    try:
        storm.stop()
        storm.end()
        collect.fill(history, world, f"projects/{PROJECT}")
    except (KeyboardInterrupt, Exception):
        history.troubles.append(traceback.format_exc(limit=-3)[-2500:])
    signal.setitimer(signal.ITIMER_REAL, 0)
    history.faults, history.skews = sorted(storm.done, key=lambda one: one.since), storm.skews
    history.troubles += storm.troubles


class Late(Exception):
    """The time given to the run is over; what is known by then is told."""


def _late(*_: object) -> None:
    raise Late("the run took longer than it may")


def plan(given: argparse.Namespace, nodes: int, pace: float) -> list[faults.Planned]:
    if given.brief:
        return faults.brief(given.seed, nodes, given.kinds or BRIEF_KINDS, given.gap)
    return faults.schedule(given.seed, nodes, given.storm_seconds, given.gap * pace)


BRIEF_KINDS = ("kill-dispatch", "kill-agent", "kill-conmon", "cut-link", "lose-messages", "kill-postgres")


def prepare(world: World, folder: Path) -> tuple[Project, dict[str, str], dict[str, str]]:
    """The project with a pipeline of each shape: (project, versions by shape, bindings of datasets)."""
    project = Project.create(world.client, PROJECT)
    image = project.import_busybox(folder)
    dataset = {load.DATASET: project.push_dataset(load.DATASET, {"n": b"seed\n"})}
    versions = {shape: project.apply(shape, load.document(shape, image)) for shape in load.SHAPES}
    return project, versions, dataset


def submit(
    world: World, project: Project, versions: dict[str, str], dataset: dict[str, str], given: Any, history: History
) -> None:
    """Keeps the system busy until every run is submitted and every one to be canceled is."""
    doomed: dict[str, float] = {}
    for order in load.orders(random.Random(given.seed), given.runs):
        while active(world, project) >= AT_ONCE:
            time.sleep(POLL_SECONDS)
            _cancel_due(world, doomed)
        name = f"{project.name}/runs/{order.id}"
        history.asked.append(Asked(name, order.shape, order.cancel))
        bindings = {"datasets": [{"datasetRef": ref, "datasetVersion": version} for ref, version in dataset.items()]}
        body = {
            "pipelineVersion": versions[order.shape],
            "bindings": bindings,
            "runId": order.id,
            "requestId": order.request_id,
        }
        world.call("POST", f"/orchestrator/v1/{project.name}/runs", body)
        if order.cancel:
            doomed[name] = time.monotonic() + random.Random(order.id).uniform(0.5, 4)
    while doomed:
        time.sleep(POLL_SECONDS)
        _cancel_due(world, doomed)


def _cancel_due(world: World, doomed: dict[str, float]) -> None:
    for name in [name for name, at in doomed.items() if at <= time.monotonic()]:
        del doomed[name]
        try:
            world.call("POST", f"/orchestrator/v1/{name}:cancel", {})
        except Refused as refused:
            # It had ended before.
            if "RUN_TERMINAL" not in str(refused) and "FAILED_PRECONDITION" not in str(refused):
                raise


def active(world: World, project: Project) -> int:
    """Runs that are not terminal."""
    states = ["STATE_QUEUED", "STATE_RUNNING", "STATE_CANCELING"]
    return len(world.pages(f"/orchestrator/v1/{project.name}/runs", "runs", states=states))


def settle(world: World, project: Project, storm: Storm, given: Any, history: History) -> None:
    """The storm goes on while there is work; then calm, and every run must come to its end."""
    while active(world, project) and not storm.over():
        time.sleep(POLL_SECONDS)
    storm.stop()
    deadline = time.monotonic() + given.settle_seconds
    while (left := active(world, project)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if left:
        history.troubles.append(f"{left} runs were not terminal {given.settle_seconds:.0f} s after the last fault")


def rest(world: World, project: Project, history: History) -> None:
    """Waits until the log has every end and the nodes have forgotten every attempt."""
    wanted = sum(
        run.state in {state.removeprefix("STATE_") for state in TERMINAL} for run in collect.runs(world, project.name)
    )
    try:
        _until(lambda: collect.ends(world, project.name) >= wanted, "the log to have every run's end")
        _until(lambda: all(world.online(node) for node in world.nodes), "the nodes to be online")
        _until(lambda: not world.left(), "the nodes to forget what has ended")
    except AssertionError as late:
        history.troubles.append(str(late))
    history.left += world.left()
    history.left += [
        f"{node.name} has the interface {one}"
        for node in world.nodes
        for one in node.link.devices()
        if one not in ("eth0", "lo")
    ]
    expected = {"lo", netns.BRIDGE, *(node.link.device for node in world.nodes)}
    history.left += [f"the interface {one}" for one in netns.devices() if one not in expected]


def _until(probe: Callable[[], bool], what: str) -> None:
    """Looks seldom, for it reads a lot. Raises AssertionError."""
    deadline = time.monotonic() + REST_SECONDS
    while not probe():
        assert time.monotonic() < deadline, f"waited {REST_SECONDS:.0f} s for {what}"
        time.sleep(POLL_SECONDS)


def close(world: World, history: History) -> None:
    """Ends everything in an orderly way, and looks at what that leaves."""
    try:
        for node in world.nodes:
            node.stop()
        history.left += [f"the mount {point}, after its agent went" for point in world.mounts()]
        for node in world.nodes:
            if node.state.is_dir():
                node.purge()
        history.left += [f"{line}, after a purge" for line in world.left()]
        world.down()
        history.left += [f"the process {line}" for line in strangers()]
    except Exception:
        history.troubles.append(traceback.format_exc(limit=-3)[-2500:])


def strangers() -> list[str]:
    """Processes that are neither the first of the enclosure nor this one. They get a moment to go."""

    def others() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (1, os.getpid()):
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            # Without a command line: a zombie that its parent has not asked for yet.
            if command:
                found.append(f"{entry.name} {command[:120]}")
        return found

    deadline = time.monotonic() + 10
    while (found := others()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def missing_kinds(history: History) -> list[str]:
    """A storm without some kind of fault has shown nothing about it."""
    counts = Counter(fault.kind for fault in history.faults)
    return [f"every_kind_of_fault_happened: {kind} did not" for kind in faults.KINDS if not counts[kind]]


def keep(world: World, history: History, folder: Path, wrong: bool) -> None:
    """The history always; what the processes wrote when something is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    history.save(folder / "history.json")
    if wrong:
        logs = [*world.layout.logs.glob("*.log"), *world.root.glob("postgres/*.log")]
        for path in logs:
            (folder / path.name).write_bytes(path.read_bytes()[-(8 << 20) :])
        for node in world.nodes:
            if (path := node.folder / "agent.log").exists():
                (folder / f"{node.name}.log").write_bytes(path.read_bytes()[-(8 << 20) :])


def report(history: History, world: World, storm: Storm | None, wrong: list[str]) -> None:
    """What happened, for people; the last line says whether anything is wrong."""

    def line(title: str, counts: Counter[str]) -> None:
        told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
        print(f"  {title:<12} {told}")

    print(f"chaos: seed {history.seed}, {history.seconds:.0f} s")
    line("runs", Counter(run.state for run in history.runs))
    line("attempts", Counter(attempt.state for attempt in history.attempts))
    ended = Counter(f"{one.failure_class}/{one.reason}" for one in history.attempts if one.reason)
    line("ended by", ended)
    steps = sum(bool(step.current_attempt) for step in history.steps)
    print(f"  {'retries':<12} {len(history.attempts) - steps} of {steps} steps")
    line("faults", Counter(fault.kind for fault in history.faults))
    line("messages", sum((node.deeds() for node in world.nodes), Counter()))
    line("logs", Counter("cut" if one.cut else "whole" for one in history.attempts))
    if storm is not None:
        line("left out", Counter(planned.kind for planned in storm.left_out))
        line("revived", storm.revived)
    for one in wrong[:50]:
        print(f"  WRONG {one}")
    if len(wrong) > 50:
        print(f"  … and {len(wrong) - 50} more")
    print("chaos: " + (f"{len(wrong)} violations" if wrong else f"all {len(checker.RULES)} rules hold"), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.chaos.inside")
    parser.add_argument("root", help="the run's folder")
    parser.add_argument("--keep", required=True, help="where history and logs go")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--storm-seconds", type=float, default=240.0)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything but the end and the report")
    parser.add_argument("--settle-seconds", type=float, default=120.0)
    parser.add_argument("--gap", type=float, default=2.0, help="seconds between faults, on average")
    parser.add_argument("--brief", action="store_true", help="each kind once instead of a storm")
    parser.add_argument("--kinds", type=lambda text: tuple(text.split(",")), default=(), help="for --brief")
    return parser


if __name__ == "__main__":
    sys.exit(main())
