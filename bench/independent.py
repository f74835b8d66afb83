"""Independent sandboxed steps through a real local stack, beside the same containers without Animus, as many at once.

    sudo .venv/bin/python -m bench.independent [steps]

The clock runs from before CreateRun is sent through the gateway until the client hears, over WatchRun, that the run has
succeeded. The bare containers are made ready before their clock starts, so that theirs is the better deal: what an
attempt needs before its container (a volume, a verified contract, an unpacked image) is in the product's time alone.
"""

from __future__ import annotations

import sys
import time

from animus.orchestrator.v1 import run_pb2
from animus_client.client import Client
from bench import chain, containers
from bench.images import import_busybox
from bench.local import client, create_project, folder, local_stack, need_sandbox
from bench.report import Line, emit, median, tell

NAME = "independent"
PROJECT = "bench"
ROUNDS = 3
WARM = 1
AT_ONCE = 4
"""Steps of half a core each, on two."""
BUDGET = 0.7


def main(steps: int) -> None:
    need_sandbox()
    floors, rates = [], []
    with local_stack() as layout, folder() as root, containers.node(root) as world, client(layout) as who:
        project = create_project(who, PROJECT)
        image = import_busybox(who, project, layout)
        for number in range(WARM + ROUNDS):
            version = chain.apply(who, project, document(image, number, steps))
            floor = containers.side_by_side(world, steps, AT_ONCE)
            rate = steps / run(who, version, f"run-{number}")
            warm = "" if number >= WARM else " (warm-up)"
            tell(f"{steps} steps: {rate:.1f} a second, bare containers {floor:.1f} a second{warm}")
            floors.append(floor)
            rates.append(rate)
        inside = chain.agent_steps(layout, "/run-")
    floor, rate = median(floors[WARM:]), median(rates[WARM:])
    emit(
        NAME,
        Line(f"independent steps, {AT_ONCE} at once", "steps/s", floor, rate, "the same containers by conmon and runc",
             "≥ 70 % of the floor", rate >= BUDGET * floor, {"inside_the_agent_ms": inside}),
    )  # fmt: skip


def run(who: Client, version: str, run_id: str) -> float:
    """Seconds from submit to succeeded."""
    project = version.partition("/pipelines/")[0]
    request = run_pb2.CreateRunRequest(parent=project, run_id=run_id, pipeline_version=version)
    begin = time.perf_counter()
    who.call(who.runs_api.CreateRun, request)
    state = chain.follow(who, f"{project}/runs/{run_id}")
    if state != run_pb2.Run.STATE_SUCCEEDED:
        raise RuntimeError(f"{run_id} ended as {run_pb2.Run.State.Name(state)}")
    return time.perf_counter() - begin


def document(image: str, salt: int, steps: int) -> object:
    """As the chain's that pass nothing on, without the order."""
    found = chain.document(image, salt, passing=False, count=steps)
    found["spec"]["dependencies"] = []
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
