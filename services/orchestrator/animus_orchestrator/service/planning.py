"""resolve → plan → assess: what PlanRun shows and CreateRun does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from animus.catalog.v1 import resolution_pb2
from animus.orchestrator.v1 import node_pb2
from animus.policy.v1 import decision_pb2
from animus_kit.documents import canonical
from animus_kit.documents.bindings import Bindings
from animus_kit.documents.plan import Plan, StepPlan
from animus_orchestrator.clients import Catalog, Policy
from animus_orchestrator.domain import planner
from animus_orchestrator.domain.pipeline import load as load_pipeline
from animus_orchestrator.domain.pipeline.problem import Problem
from animus_orchestrator.domain.scheduler import Gpu, Need, Room, obstacle
from animus_orchestrator.store import agents as agent_store
from animus_orchestrator.store.pipelines import PipelineVersion

FEATURES: frozenset[str] = frozenset({"network-allow-list"})
"""Of planner.FEATURES: neither gates nor secrets yet. Which node can do it is a matter of its capabilities."""

CAPABILITIES = (
    "memory-limit",
    "network-none",
    "no-capabilities",
    "no-new-privileges",
    "seccomp",
    "user-namespace",
    "vsock-blocked",
)
"""Canaries that must have passed on a node before a step of any project goes there."""

GPU_CAPABILITY = "gpu-devices"
"""Beside them where a step has GPUs: a container saw its own device nodes and no others."""

MAX_NAME = 63


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what it was made under."""

    plan: Plan
    document: bytes
    digest: str
    snapshot: decision_pb2.PolicySnapshot


def make(project: str, version: PipelineVersion, bindings: Bindings, catalog: Catalog, policy: Policy) -> Planned:
    """Resolves and plans. `project` is its full name. Writes nothing. Raises: NotPlannable, RemoteError."""
    document = load_pipeline(version.document, version.media_type)
    wanted = planner.references(document, bindings)
    answer = catalog.resolve(
        resolution_pb2.ResolveBindingsRequest(
            project=project,
            dataset_versions=wanted.dataset_versions,
            code_snapshots=wanted.code_snapshots,
            image_digests=wanted.image_digests,
            experiment=wanted.experiment,
        )
    )
    snapshot = policy.snapshot(project)
    plan = planner.plan(document, bindings, _facts(answer), snapshot.snapshot_digest)
    data = plan.to_bytes()
    return Planned(plan, data, plan.digest, snapshot)


def _facts(answer: resolution_pb2.ResolveBindingsResponse) -> planner.ResolvedFacts:
    return planner.ResolvedFacts(
        dataset_versions={one.name: one.manifest_digest for one in answer.dataset_versions},
        code_snapshots={one.name: one.manifest_digest for one in answer.code_snapshots},
        images={
            one.image_digest: planner.ImageFact(one.platform, one.environment_lock, one.lock_digest)
            for one in answer.images
        },
        problems=tuple((one.reference, one.reason, one.message) for one in answer.unresolved),
        features=FEATURES,
    )


def name_problems(run_id: str, plan: Plan) -> list[Problem]:
    """Artifacts are named after run, step and output; what would not fit into a name is refused before it runs."""
    return [
        Problem(
            0,
            0,
            f"steps.{step.name}.outputs.{output.name}",
            "ARTIFACT_NAME_TOO_LONG",
            f"the artifact {run_id}-{step.name}-{output.name} would have more than {MAX_NAME} characters",
        )
        for step in plan.steps
        for output in step.recipe.outputs
        if len(f"{run_id}-{step.name}-{output.name}") > MAX_NAME
    ]


def facts_for_policy(planned: Planned, version: str, bindings: Bindings) -> bytes:
    """What policy decides on: canonical JSON, whose digest stands in the decision."""
    return canonical.dumps(
        {
            "type": canonical.type_of("submit-facts"),
            "pipelineVersion": version,
            "planDigest": planned.digest,
            "bindingsDigest": bindings.digest,
            "images": sorted({step.recipe.image for step in planned.plan.steps}),
            "datasetVersions": sorted({d.dataset_version for d in bindings.datasets}),
            "codeSnapshots": sorted({c.code_snapshot for c in bindings.code}),
            "network": sorted({step.recipe.network.mode for step in planned.plan.steps}),
            "egress": sorted({host for step in planned.plan.steps for host in step.recipe.network.allow}),
            "resources": {
                "cpuMillis": str(sum(step.resources.cpu_millis for step in planned.plan.steps)),
                "memoryBytes": str(sum(step.resources.memory_bytes for step in planned.plan.steps)),
                "gpus": sum(step.resources.gpu for step in planned.plan.steps),
            },
        }
    )


def step_rows(plan: Plan, now: Any) -> list[Mapping[str, Any]]:
    """The plan's steps as rows of the table `steps`."""
    rows = []
    for ordinal, step in enumerate(plan.steps):
        action = step.recipe if step.recipe.complete else None
        ready = not step.dependencies
        rows.append(
            {
                "name": step.name,
                "ordinal": ordinal,
                "state": "READY" if ready else "PENDING",
                "ready_time": now if ready else None,
                "dependencies": list(step.dependencies),
                "recipe": step.recipe.to_bytes(),
                "recipe_digest": step.recipe_digest,
                "action": action.to_bytes() if action else None,
                "action_digest": action.digest if action else "",
                "inputs": [
                    {"name": d.name, "kind": "dataset", "resource": d.dataset_version} for d in step.dataset_sources
                ]
                + [
                    {"name": a.name, "kind": "artifact", "step": a.step, "output": a.output}
                    for a in step.artifact_sources
                ],
                "code": {"resource": step.code.resource, "digest": step.code.digest} if step.code else None,
                "environment_lock": {
                    "resource": step.environment_lock.resource,
                    "digest": step.environment_lock.digest,
                },
                "timeout_seconds": step.timeout_seconds,
                "retry": {
                    "max_attempts": step.retry.max_attempts,
                    "exponential": step.retry.backoff.type == "exponential",
                    "initial_seconds": step.retry.backoff.initial_seconds,
                    "max_seconds": step.retry.backoff.max_seconds,
                    "multiplier": step.retry.backoff.multiplier,
                },
                **_room(step),
            }
        )
    return rows


def _capabilities(step: StepPlan) -> list[str]:
    """What a node must have shown that it can do before this step goes there."""
    wanted = list(CAPABILITIES)
    if step.resources.gpu:
        wanted.append(GPU_CAPABILITY)
    if step.recipe.network.mode == "allow-list":
        wanted.append("network-allow-list")
    if not step.recipe.isolation.aslr:
        wanted.append("no-aslr")
    return wanted


def _room(step: StepPlan) -> dict[str, Any]:
    accelerator = step.recipe.accelerator
    return {
        "cpu_millis": step.resources.cpu_millis,
        "memory_bytes": step.resources.memory_bytes,
        "gpus": step.resources.gpu,
        "gpu_model": (accelerator.model or "") if accelerator else "",
        "platform": step.recipe.platform,
        "capabilities": _capabilities(step),
    }


@dataclass(frozen=True, slots=True)
class Placement:
    """How many agents could take a step now, and why none can."""

    eligible: int
    message: str


def placements(project: str, plan: Plan, rooms: Sequence[Room]) -> list[Placement]:
    """Shown, never in the digest. `rooms` are agents' whole nodes, without what runs there now."""
    found = []
    for step in plan.steps:
        room = _room(step)
        need = Need(
            0, project, "default", room["cpu_millis"], room["memory_bytes"], room["gpus"], room["gpu_model"],
            room["platform"], frozenset(room["capabilities"]),
        )  # fmt: skip
        obstacles = {one.agent: obstacle(need, one) for one in rooms}
        eligible = sum(why is None for why in obstacles.values())
        message = ""
        if not eligible:
            reasons = sorted({f"{agent}: {why.message}" for agent, why in obstacles.items() if why})
            message = "; ".join(reasons)[:1024] or "no agent of this project is online"
        found.append(Placement(eligible, message))
    return found


def online_rooms(conn: Connection, project: str) -> list[Room]:
    """Agents that may take work of a project, each as its whole node."""
    return [_whole(one) for one in agent_store.online(conn, project)]


def _whole(one: agent_store.AgentRecord) -> Room:
    node = node_pb2.NodeInfo.FromString(one.claimed or b"")
    return Room(
        agent=one.agent.name,
        pool=one.agent.pool,
        attempts=1,
        cpu_millis=node.cpu_millis,
        memory_bytes=node.memory_bytes,
        gpus=tuple(Gpu(g.uuid, g.model) for g in node.gpus),
        projects=one.agent.projects,
        platform=node.platform,
        capabilities=frozenset(c.name for c in node.capabilities if c.available),
    )


def problem_lines(problems: Iterable[Problem]) -> str:
    return "; ".join(f"{p.path}: {p.message}" for p in problems)[:1024]
