"""resolve → plan → assess: what PlanRun shows and CreateRun does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from animus.catalog.v1 import resolution_pb2
from animus.policy.v1 import decision_pb2
from animus_kit.documents import canonical
from animus_kit.documents.bindings import Bindings
from animus_kit.documents.plan import Plan, StepPlan
from animus_orchestrator.clients import Catalog, Policy
from animus_orchestrator.domain import planner
from animus_orchestrator.domain.pipeline import load as load_pipeline
from animus_orchestrator.domain.pipeline.problem import Problem
from animus_orchestrator.domain.quota import Limits, never_allowed
from animus_orchestrator.domain.scheduler import Need
from animus_orchestrator.store import pools
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


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what it was made under."""

    plan: Plan
    document: bytes
    digest: str
    snapshot: decision_pb2.PolicySnapshot


def make(project: str, version: PipelineVersion, bindings: Bindings, catalog: Catalog, policy: Policy) -> Planned:
    """Resolves and plans. `project` is its full name. Writes nothing. Raises: NotPlannable, RemoteError, RpcError."""
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


def facts_for_policy(planned: Planned, version: str, bindings: Bindings, where: Where) -> bytes:
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
            "scheduling": {
                "pool": where.pool,
                "nodeLabels": dict(where.node_labels),
                "priority": where.priority,
            },
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
class Where:
    """Where a run's steps may go, and how urgent they are. In no digest: it influences no result."""

    pool: str = pools.DEFAULT
    node_labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0


def needs(project: str, plan: Plan, where: Where) -> dict[str, Need]:
    """What each step asks of a node, by its name."""
    selector = frozenset(f"{key}={value}" for key, value in where.node_labels.items())
    found = {}
    for step in plan.steps:
        room = _room(step)
        found[step.name] = Need(
            0, project, where.pool, room["cpu_millis"], room["memory_bytes"], room["gpus"], room["gpu_model"],
            room["platform"], frozenset(room["capabilities"]), selector,
        )  # fmt: skip
    return found


_FIELDS = {"cpu_millis": "cpu", "memory_bytes": "memory", "gpus": "gpu"}


def quota_problems(limits: Limits, asked: Mapping[str, Need], stored: int | None) -> list[Problem]:
    """What the project's quota could never allow, with its place in the document."""
    found = [
        Problem(
            0,
            0,
            f"steps.{step}.resources.{_FIELDS[over.limit]}",
            "QUOTA_EXCEEDED",
            f"{over.wanted} are asked for, the project's quota of {over.limit} is {over.allowed}",
        )
        for step, need in asked.items()
        for over in never_allowed(limits, need)
    ]
    if limits.active_runs == 0:
        found.append(Problem(0, 0, "", "QUOTA_EXCEEDED", "the project's quota allows no run"))
    if limits.stored_bytes is not None and stored is not None and stored >= limits.stored_bytes:
        message = f"the project stores {stored} bytes, its quota of stored_bytes is {limits.stored_bytes}"
        found.append(Problem(0, 0, "", "QUOTA_EXCEEDED", message))
    return found


def pool_problems(project: str, where: Where, pool: pools.Pool | None) -> list[Problem]:
    if pool is None:
        return [Problem(0, 0, "scheduling.pool", "POOL_NOT_FOUND", f"pools/{where.pool} does not exist")]
    if not pool.serves(project):
        return [Problem(0, 0, "scheduling.pool", "POOL_NOT_ALLOWED", f"pools/{where.pool} does not serve the project")]
    return []


def problem_lines(problems: Iterable[Problem]) -> str:
    return "; ".join(f"{p.path}: {p.message}" for p in problems)[:1024]
