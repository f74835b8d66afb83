"""Reads what a run left behind, through the API as anybody could, into a history."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from tests.chaos.history import Attempt, Event, History, Run, Start, Step
from tests.chaos.world import World

READERS = 4
ENDS = ("orchestrator.run.succeeded", "orchestrator.run.failed", "orchestrator.run.canceled")


def runs(world: World, project: str) -> list[Run]:
    found = world.pages(f"/orchestrator/v1/{project}/runs", "runs")
    return [Run(one["name"], _state(one), _reason(one)) for one in found]


def fill(history: History, world: World, project: str) -> None:
    """Everything but faults, skews and what is left on the host."""
    history.runs = runs(world, project)
    with ThreadPoolExecutor(READERS) as pool:
        for steps, attempts in pool.map(lambda run: _of_run(world, run.name), history.runs):
            history.steps += steps
            history.attempts += attempts
    history.events = [_event(one) for one in world.pages("/audit/v1/events", "events")]
    told = world.call("GET", "/audit/v1/sources")
    history.sources = {one["source"]: int(one["lastSeq"]) for one in told["sources"]}
    history.log_size = int(told["logSize"])
    history.events = [event for event in history.events if event.index < history.log_size]
    history.starts = [Start(node.name, container) for node in world.nodes for container in node.containers()]


def ends(world: World, project: str) -> int:
    """How many ends of runs the log holds."""
    query = {"filter.types": list(ENDS)}
    return len(world.pages(f"/audit/v1/{project}/events", "events", **query))


def _of_run(world: World, run: str) -> tuple[list[Step], list[Attempt]]:
    steps = [
        Step(
            name=one["name"],
            state=_state(one),
            current_attempt=int(one.get("currentAttempt", 0)),
            outputs={output["name"]: output["manifestDigest"] for output in one.get("outputs", ())},
            reason=_reason(one),
        )
        for one in world.pages(f"/orchestrator/v1/{run}/steps", "steps")
    ]
    attempts = [_attempt(world, one) for one in world.pages(f"/orchestrator/v1/{run}/steps/-/attempts", "attempts")]
    return steps, attempts


def _attempt(world: World, one: dict[str, Any]) -> Attempt:
    pieces = list(_log(world, one["name"]))
    return Attempt(
        name=one["name"],
        state=_state(one),
        agent=one.get("agent", ""),
        end=_seconds(one["endTime"]) if "endTime" in one else 0.0,
        failure_class=one.get("failureClass", "").removeprefix("FAILURE_CLASS_"),
        reason=one.get("stateReason", ""),
        message=one.get("stateMessage", ""),
        log=[(offset, data.decode(errors="replace")) for offset, data in pieces],
        cut=one.get("logTruncated", False),
    )


def _log(world: World, attempt: str) -> Iterator[tuple[int, bytes]]:
    """Pieces of a log; neighbours are put together."""
    start, held = 0, b""
    for line in world.fetch("GET", f"/orchestrator/v1/{attempt}:logs").splitlines():
        piece = json.loads(line)
        offset, data = int(piece.get("offsetBytes", 0)), base64.b64decode(piece.get("data", ""))
        if not data:
            continue
        if held and offset != start + len(held):
            yield start, held
            held = b""
        if not held:
            start = offset
        held += data
    if held:
        yield start, held


def _event(one: dict[str, Any]) -> Event:
    detail: dict[str, str] = {}
    if one["type"] == "orchestrator.attempt.leased":
        detail["agent"] = json.loads(base64.b64decode(one["payload"])).get("agent", "")
    return Event(
        index=int(one.get("index", 0)),
        source=one["source"],
        seq=int(one["seq"]),
        type=one["type"],
        resource=one.get("resource", ""),
        time=_seconds(one["eventTime"]),
        detail=detail,
    )


def _state(one: dict[str, Any]) -> str:
    return one.get("state", "").removeprefix("STATE_")


def _reason(one: dict[str, Any]) -> str:
    return ": ".join(text for text in (one.get("stateReason", ""), one.get("stateMessage", "")) if text)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
