"""What happened, as events in the outbox. Payloads hold what lineage and catalog need, so that nobody asks back."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.actor import Actor
from animus_kit.db.outbox import Event, emit, emit_many
from animus_kit.digest import sha256_hex
from animus_kit.documents.action import Action
from animus_orchestrator.domain.artifact import artifact_name
from animus_orchestrator.domain.run import Fact, RunGraph
from animus_orchestrator.store.graph import Loaded
from animus_orchestrator.store.schema import among, attempts, steps

SERVICE = "service/orchestrator"


@functools.lru_cache(maxsize=1024)
def read_action(data: bytes) -> Action:
    """An action that was stored. The same one is read when it is leased and when it is committed."""
    return Action.from_bytes(data)


def agent_actor(agent_id: str) -> str:
    return f"agent/{agent_id}"


def emit_facts(conn: Connection, loaded: Iterable[Loaded], actor: Actor | str = SERVICE, request_id: str = "") -> None:
    """Writes what the transitions of these graphs mean, in order, and forgets it.

    `actor` is whose doing it was; what an agent reported is that agent's. Call it after everything else is written.
    """
    graphs = [one.graph for one in loaded if one.graph.facts]
    if not graphs:
        return
    details = _commits(conn, graphs)
    events: list[Event] = []
    for graph in graphs:
        for fact in graph.facts:
            events.append(_event(graph, fact, details, actor, request_id))
        graph.facts.clear()
    emit_many(conn, events)


def emit_agent(
    conn: Connection, event_type: str, agent_id: str, payload: Mapping[str, Any], actor: Actor | str
) -> None:
    emit(conn, event_type, "", f"agents/{agent_id}", actor, payload)


def _event(
    graph: RunGraph, fact: Fact, details: Mapping[tuple[int, int], dict[str, Any]], actor: Actor | str, request_id: str
) -> Event:
    run = graph.run
    noun = fact.kind.partition(".")[0]
    step_name = f"{run.name}/steps/{fact.step}"
    payload: dict[str, Any] = {"run": run.name}
    resource, who = run.name, actor
    if noun == "run":
        payload |= {"state": run.state.value, "reason": run.reason or None, "message": _text(run.message)}
    else:
        step = graph.steps[fact.step]
        resource = step_name
        payload["step"] = step_name
        if noun == "step":
            payload |= {"state": step.state.value, "reason": step.reason or None, "message": _text(step.message)}
            if fact.attempt:
                payload["attempt"] = f"{step_name}/attempts/{fact.attempt}"
        else:
            attempt = graph.attempts[fact.step, fact.attempt]
            resource = payload["attempt"] = f"{step_name}/attempts/{fact.attempt}"
            payload["agent"] = f"agents/{attempt.agent}"
            if fact.kind in ("attempt.started", "attempt.committed") or (
                fact.kind == "attempt.failed" and attempt.state.value != "LOST"
            ):
                who = agent_actor(attempt.agent)
            if fact.kind == "attempt.failed":
                payload |= {
                    "state": attempt.state.value,
                    "failureClass": attempt.failure_class.value if attempt.failure_class else None,
                    "reason": attempt.reason or None,
                    "message": _text(attempt.message),
                    "exitCode": attempt.exit_code,
                }
            payload |= details.get((step.uid, fact.attempt), {})
    return Event(f"orchestrator.{fact.kind}", f"projects/{run.project}", resource, who, payload, request_id)


def _text(value: str) -> str | None:
    return value or None


_DETAILS = (
    sa.select(
        steps.c.uid, steps.c.current_attempt, steps.c.action, steps.c.action_digest, steps.c.recipe_digest,
        steps.c.inputs, steps.c.code, steps.c.environment_lock, steps.c.metrics, attempts.c.provenance,
        attempts.c.contract,
    )
    .join(attempts, (attempts.c.step_uid == steps.c.uid) & (attempts.c.number == steps.c.current_attempt))
    .where(steps.c.uid == among("uids", sa.BigInteger))
)  # fmt: skip


def _commits(conn: Connection, graphs: list[RunGraph]) -> dict[tuple[int, int], dict[str, Any]]:
    """What the events of leased and committed attempts say beyond their names, by (step uid, number)."""
    leased = {(g.steps[f.step].uid, f.attempt) for g in graphs for f in g.facts if f.kind == "attempt.leased"}
    committed = {
        (g.steps[f.step].uid, f.attempt): (g, f.step) for g in graphs for f in g.facts if f.kind == "attempt.committed"
    }
    uids = sorted({uid for uid, _ in leased} | {uid for uid, _ in committed})
    if not uids:
        return {}
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in conn.execute(_DETAILS, {"uids": uids}):
        key = (row.uid, row.current_attempt)
        found[key] = {"actionDigest": row.action_digest, "recipeDigest": row.recipe_digest}
        if key in leased:
            found[key]["contractDigest"] = f"sha256:{sha256_hex(row.contract)}"
        if key in committed:
            found[key] |= _commit(*committed[key], row)
    return found


def _commit(graph: RunGraph, step: str, row: Any) -> dict[str, Any]:
    run = graph.run
    action = read_action(bytes(row.action))
    manifests = {one.name: one.manifest for one in action.inputs}
    kinds = {one.name: one for one in action.outputs}
    return {
        "inputs": [
            {
                "mount": i["name"],
                "resource": input_resource(run.project, run.id, i),
                "manifestDigest": manifests[i["name"]],
            }
            for i in row.inputs
        ],
        "code": {"resource": row.code["resource"], "manifestDigest": row.code["digest"]} if row.code else None,
        "environmentLock": row.environment_lock["resource"],
        "imageDigest": action.image,
        "outputs": [
            {
                "name": o.name,
                "artifact": artifact_name(run.project, run.id, step, o.name),
                "type": kinds[o.name].type,
                "mediaType": kinds[o.name].media_type,
                "manifestDigest": o.manifest_digest,
                "bytes": str(o.size_bytes),
                "files": str(o.file_count),
            }
            for o in graph.steps[step].outputs
        ],
        "metrics": {name: float(value) for name, value in row.metrics.items()},
        "provenanceDigest": f"sha256:{sha256_hex(row.provenance)}" if row.provenance else None,
    }


def input_resource(project: str, run_id: str, one: Mapping[str, str]) -> str:
    """The resource behind an input: a dataset version, or the artifact of an earlier step of the same run."""
    if one["kind"] == "dataset":
        return one["resource"]
    return artifact_name(project, run_id, one["step"], one["output"])
