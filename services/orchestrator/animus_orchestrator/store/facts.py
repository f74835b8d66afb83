"""What happened, as events in the outbox. Payloads hold what lineage and catalog need, so that nobody asks back."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.actor import Actor
from animus_kit.db.outbox import Event, emit, emit_many
from animus_kit.digest import sha256
from animus_kit.documents.action import Action
from animus_orchestrator.domain.artifact import artifact_name
from animus_orchestrator.domain.run import Fact, RunGraph
from animus_orchestrator.store.graph import Loaded
from animus_orchestrator.store.schema import among, steps

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
    emit_many(conn, facts_of(conn, loaded, actor, request_id))


def facts_of(
    conn: Connection, loaded: Iterable[Loaded], actor: Actor | str = SERVICE, request_id: str = ""
) -> list[Event]:
    """As `emit_facts`, for who writes them together with others."""
    changed = [one for one in loaded if one.graph.facts]
    if not changed:
        return []
    details = _details(conn, changed)
    events: list[Event] = []
    for one in changed:
        for fact in one.graph.facts:
            events.append(_event(one.graph, fact, details, actor, request_id))
        one.graph.facts.clear()
    return events


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


_COMMITTED = sa.select(
    steps.c.uid, steps.c.current_attempt, steps.c.action, steps.c.action_digest, steps.c.recipe_digest,
    steps.c.inputs, steps.c.code, steps.c.environment_lock,
).where(steps.c.uid == among("uids", sa.BigInteger))  # fmt: skip


def _details(conn: Connection, changed: list[Loaded]) -> dict[tuple[int, int], dict[str, Any]]:
    """What the events of leased and committed attempts say beyond their names, by (step uid, number)."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    committed: dict[tuple[int, int], tuple[Loaded, str]] = {}
    for one in changed:
        for fact in one.graph.facts:
            key = (one.graph.steps[fact.step].uid, fact.attempt) if fact.step else (0, 0)
            if fact.kind == "attempt.leased":
                found[key] = one.leased[fact.step, fact.attempt]
            elif fact.kind == "attempt.committed":
                committed[key] = (one, fact.step)
    if not committed:
        return found
    for row in conn.execute(_COMMITTED, {"uids": [uid for uid, _ in committed]}):
        key = (row.uid, row.current_attempt)
        if key in committed:
            found[key] = {"actionDigest": row.action_digest, "recipeDigest": row.recipe_digest}
            found[key] |= _commit(*committed[key], row)
    return found


def _commit(one: Loaded, step: str, row: Any) -> dict[str, Any]:
    graph, run = one.graph, one.graph.run
    proof = one.proofs[step, row.current_attempt]
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
        "metrics": proof.metrics,
        "provenanceDigest": sha256(proof.provenance) if proof.provenance else None,
    }


def input_resource(project: str, run_id: str, one: Mapping[str, str]) -> str:
    """The resource behind an input: a dataset version, or the artifact of an earlier step of the same run."""
    if one["kind"] == "dataset":
        return one["resource"]
    return artifact_name(project, run_id, one["step"], one["output"])
