"""Each process is killed with -9 in the middle of a run and comes back: the run succeeds, and the record has no gap."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest

from animus_cli.stack import programs
from animus_cli.stack import stack as stacks
from animus_cli.stack.layout import Layout
from tests.system.world import Client, Project, pipeline, step, wait_for

# Long enough that a kill lands while it runs; the container itself is what waits.
SCRIPT = "cat /animus/inputs/{source}/n > /animus/outputs/out/n; sleep 1; echo {name} >> /animus/outputs/out/n"


@pytest.fixture(scope="module")
def prepared(project: Project, image: str) -> tuple[str, dict[str, str]]:
    """(pipeline version, datasets): a diamond of four steps."""
    version = project.push_dataset("seed", {"n": b"seed\n"})
    first = step("first", image, SCRIPT.format(source="seed", name="first"), datasets={"seed": "seed"}, outputs=["out"])
    middle = [
        step(name, image, SCRIPT.format(source="in", name=name), artifacts={"in": ("first", "out")}, outputs=["out"])
        for name in ("left", "right")
    ]
    last = step(
        "last",
        image,
        "cat /animus/inputs/left/n /animus/inputs/right/n > /animus/outputs/out/n",
        artifacts={"left": ("left", "out"), "right": ("right", "out")},
        outputs=["out"],
    )
    edges = [("first", "left"), ("first", "right"), ("left", "last"), ("right", "last")]
    return project.apply("diamond", pipeline(first, *middle, last, dependencies=edges)), {"seed": version}


def running(operator: Client, run: str) -> bool:
    answer = operator.send("GET", f"/orchestrator/v1/{run}/steps")
    return answer.status == 200 and any(found["state"] == "STATE_RUNNING" for found in answer.json["steps"])


@pytest.mark.parametrize("victim", [*programs.ALL, programs.POSTGRES])
def test_a_run_survives_the_death_of(
    layout: Layout, operator: Client, project: Project, prepared: tuple[str, dict[str, str]], victim: str
) -> None:
    version, datasets = prepared
    run = project.submit(version, datasets, runId=f"kill-{victim}")["name"]
    wait_for(lambda: running(operator, run), 30, "a step to run")
    stacks.restart(layout, victim, kill=True)
    ended = project.wait(run, 100)
    assert ended["state"] == "STATE_SUCCEEDED", ended
    assert {found["state"] for found in project.steps(run).values()} == {"STATE_SUCCEEDED"}
    commits = wait_for(lambda: commits_of(operator, project, run), 30, "the run's end in the log")
    assert commits == dict.fromkeys(("first", "left", "right", "last"), 1)


def pages(operator: Client, path: str) -> list[Any]:
    """Every event of a list."""
    found: list[Any] = []
    token = ""
    while True:
        page = operator.ok("GET", path, pageSize=500, pageToken=token or None)
        found += page.get("events", [])
        token = page.get("nextPageToken", "")
        if not token:
            return found


def commits_of(operator: Client, project: Project, run: str) -> Counter[str] | None:
    """Commits of each step, when the log has the run's end; None before."""
    commits: Counter[str] = Counter()
    ended = 0
    for event in pages(operator, f"/audit/v1/{project.name}/events"):
        if event["type"] == "orchestrator.run.succeeded" and event["resource"] == run:
            ended += 1
        if event["type"] == "orchestrator.attempt.committed" and event["resource"].startswith(f"{run}/"):
            commits[json.loads(base64.b64decode(event["payload"]))["step"].rpartition("/")[2]] += 1
    assert ended <= 1
    return commits if ended else None


def test_no_source_has_a_gap(operator: Client, project: Project) -> None:
    before = operator.ok("GET", "/audit/v1/sources")
    assert sum(int(source["lastSeq"]) for source in before["sources"]) == int(before["logSize"])
    indices = [int(event.get("index", 0)) for event in pages(operator, "/audit/v1/events")]
    assert indices == list(range(len(indices)))
    assert len(indices) >= int(before["logSize"])
