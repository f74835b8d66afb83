"""Submit to committed: a chain of ten trivial sandboxed steps through a real local stack, beside ten bare containers.

    sudo .venv/bin/python -m bench.chain [chains]

The clock runs from before CreateRun is sent through the gateway until the client hears, over WatchRun, that the run has
succeeded; and until it hears of `orchestrator.run.succeeded` from the log, over WatchProjectEvents. Ten bare containers
are timed before each chain, on the same machine, with the stack idle beside them.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc

from animus.audit.v1 import event_pb2, event_stream_pb2
from animus.orchestrator.v1 import pipeline_pb2, run_pb2, run_stream_pb2
from animus_cli.stack.layout import Layout
from animus_client.client import Client
from bench import containers
from bench.images import import_busybox
from bench.local import client, create_project, folder, local_stack, need_sandbox
from bench.report import Line, emit, median, tell

NAME = "chain"
STEPS = 10
PROJECT = "bench"
WAIT_SECONDS = 120
BUDGET_MS = 20
# Chains before the clock counts: the image is unpacked and the processes have seen each statement once.
WARM = 1


@dataclass
class Timed:
    """One chain, in milliseconds."""

    committed: float
    logged: float
    floor: list[float] = field(default_factory=list)
    # From a step's commit to the next one's lease, and from a lease to its commit, by the database's clock.
    between: list[float] = field(default_factory=list)
    leased: list[float] = field(default_factory=list)
    first_lease: float = 0.0

    @property
    def overhead(self) -> float:
        """Of one step, over one bare container."""
        return self.committed / STEPS - median(self.floor)


def main(chains: int) -> None:
    need_sandbox()
    with local_stack() as layout, folder() as root, containers.node(root) as world, client(layout) as who:
        project = create_project(who, PROJECT)
        image = import_busybox(who, project, layout)
        for what, passing in (("chain of steps that only follow each other", False),
                              ("chain of steps that pass an artifact on", True)):  # fmt: skip
            timed = []
            for number in range(WARM + chains):
                version = apply(who, project, document(image, number, passing))
                floor = [containers.bare(world) for _ in range(STEPS)]
                one = run_chain(who, version, f"run-{int(passing)}-{number}")
                one.floor = floor
                tell(
                    f"{what}: {one.committed:.0f} ms, floor {sum(floor):.0f} ms{'' if number >= WARM else ' (warm-up)'}"
                )
                timed.append(one)
            say(what, timed[WARM:], agent_steps(layout, f"/run-{int(passing)}-"))


def say(what: str, timed: list[Timed], inside: dict[str, float]) -> None:
    floor = median([ms for one in timed for ms in one.floor])
    overhead = median([one.overhead for one in timed])
    detail = {
        "chain_ms": [round(one.committed, 1) for one in timed],
        "in_the_log_ms": [round(one.logged, 1) for one in timed],
        "overhead_ms_per_step": round(overhead, 1),
        "submit_to_first_lease_ms": round(median([one.first_lease for one in timed]), 1),
        "lease_to_commit_ms": round(median([ms for one in timed for ms in one.leased]), 1),
        "commit_to_next_lease_ms": round(median([ms for one in timed for ms in one.between]), 1),
        "inside_the_agent_ms": inside,
    }
    emit(
        NAME,
        Line(
            f"{what}: a step, submit to committed",
            "ms",
            floor,
            median([one.committed for one in timed]) / STEPS,
            "create, start, end, delete by conmon and runc",
            f"≤ floor + {BUDGET_MS} ms",
            overhead <= BUDGET_MS,
            detail,
        ),
    )
    emit(
        NAME,
        Line(
            f"{what}: a step, submit to in the log",
            "ms",
            floor,
            median([one.logged for one in timed]) / STEPS,
            "create, start, end, delete by conmon and runc",
            f"≤ floor + {BUDGET_MS} ms",
            median([one.logged / STEPS - median(one.floor) for one in timed]) <= BUDGET_MS,
        ),
    )


def run_chain(who: Client, version: str, run_id: str) -> Timed:
    """Submits, follows, and reads the steps' times afterwards."""
    project = version.partition("/pipelines/")[0]
    run = f"{project}/runs/{run_id}"
    logged = Logged(who, project, run)
    request = run_pb2.CreateRunRequest(parent=project, run_id=run_id, pipeline_version=version)
    wall, begin = time.time(), time.perf_counter()
    who.call(who.runs_api.CreateRun, request)
    state = follow(who, run)
    committed = time.perf_counter() - begin
    if state != run_pb2.Run.STATE_SUCCEEDED:
        raise RuntimeError(f"{run} ended as {run_pb2.Run.State.Name(state)}")
    in_log = logged.wait() - begin
    timed = Timed(committed * 1000, in_log * 1000)
    times = []
    for number in range(STEPS):
        name = f"{run}/steps/{step_name(number)}/attempts/1"
        attempt = who.call(who.runs_api.GetAttempt, run_pb2.GetAttemptRequest(name=name))
        times.append((attempt.lease_time.ToNanoseconds() / 1e6, attempt.end_time.ToNanoseconds() / 1e6))
    timed.first_lease = times[0][0] - wall * 1000
    timed.leased = [end - lease for lease, end in times]
    timed.between = [lease - end for (_, end), (lease, _) in itertools.pairwise(times)]
    return timed


def follow(who: Client, run: str) -> int:
    """The state it ends in."""
    for message in who.run_streams_api.WatchRun(run_stream_pb2.WatchRunRequest(name=run), timeout=WAIT_SECONDS):
        if message.final:
            return message.run.state
    raise RuntimeError(f"the watch of {run} ended early")


class Logged:
    """Waits in a thread for the log to tell that the run has succeeded."""

    def __init__(self, who: Client, project: str, run: str):
        found = event_pb2.EventFilter(types=["orchestrator.run.succeeded"], resource=run)
        request = event_stream_pb2.WatchProjectEventsRequest(parent=project, filter=found)
        self._call = who.event_streams_api.WatchProjectEvents(request, timeout=WAIT_SECONDS)
        self._at: list[float] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> float:
        """When it was heard, on the clock of time.perf_counter()."""
        self._thread.join(WAIT_SECONDS)
        self._call.cancel()
        if not self._at:
            raise RuntimeError("the run's end is not in the log")
        return self._at[0]

    def _read(self) -> None:
        try:
            for message in self._call:
                if message.events:
                    self._at.append(time.perf_counter())
                    return
        except grpc.RpcError as error:
            tell(f"the watch of the log ended: {error.code().name}")  # type: ignore[attr-defined]


def agent_steps(layout: Layout, run: str) -> dict[str, float]:
    """Medians of what the agent logged of each attempt's steps."""
    found = defaultdict(list)
    for line in (layout.logs / "agent.log").read_text().splitlines():
        if not line.startswith("{") or "attempt ended" not in line:
            continue
        told = json.loads(line)
        if run in told.get("attempt", ""):
            for name, took in told["milliseconds"].items():
                found[name].append(took)
    return {name: round(median(times), 1) for name, times in found.items()}


def apply(who: Client, project: str, pipeline: object) -> str:
    """The name of a new version: no chain is the repetition of another, so that nothing comes from a cache."""
    try:
        who.call(who.pipelines_api.CreatePipeline,
                 pipeline_pb2.CreatePipelineRequest(parent=project, pipeline_id="chain"))  # fmt: skip
    except Exception as error:
        if getattr(error, "code", "") != "ALREADY_EXISTS":
            raise
    request = pipeline_pb2.CreatePipelineVersionRequest(
        parent=f"{project}/pipelines/chain", document=json.dumps(pipeline).encode(), media_type="application/json"
    )
    return who.call(who.pipelines_api.CreatePipelineVersion, request).name


def document(image: str, salt: int, passing: bool, count: int = STEPS) -> dict[str, Any]:
    """Steps in a row; where they pass something on, each reads the file of the one before it."""
    names = [step_name(number) for number in range(count)]
    steps = []
    for before, name in zip([None, *names], names, strict=False):
        reads = [{"name": "in", "fromStep": before, "artifact": "out"}] if passing and before else []
        source = "cat /animus/inputs/in/x" if reads else f"echo {salt}"
        steps.append(
            {
                "name": name,
                "image": f"registry.local/busybox@{image}",
                "command": ["/usr/bin/sh", "-euc"],
                "args": [f"{source} > /animus/outputs/out/x" if passing else f": {salt}"],
                "inputs": {"datasets": [], "artifacts": reads},
                "outputs": {"artifacts": [{"name": "out", "type": "file"}] if passing else []},
                "env": [],
                "resources": {"cpu": "0.5", "memory": "64Mi", "gpu": 0},
                "retryPolicy": {
                    "maxAttempts": 1,
                    "backoff": {"type": "fixed", "initialSeconds": 1, "maxSeconds": 1, "multiplier": 1},
                },
            }
        )
    return {
        "apiVersion": "animus/v1alpha1",
        "kind": "Pipeline",
        "specVersion": "1",
        "spec": {"steps": steps, "dependencies": [{"from": a, "to": b} for a, b in itertools.pairwise(names)]},
    }


def step_name(number: int) -> str:
    return f"step-{number}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
