"""Rows and documents → protos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp

from animus.orchestrator.v1 import agent_pb2, node_pb2, pipeline_pb2, run_pb2
from animus.type.v1 import metric_pb2, value_pb2
from animus_kit.documents import dsse
from animus_kit.documents.bindings import Bindings, CodeBinding, DatasetBinding
from animus_kit.documents.errors import DocumentError
from animus_kit.documents.values import Parameter
from animus_kit.errors import FieldViolation
from animus_kit.names import parse
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.errors import BindingsInvalid
from animus_orchestrator.domain.waiting import Why
from animus_orchestrator.store import pipelines
from animus_orchestrator.store.agents import AgentRecord
from animus_orchestrator.store.join_tokens import JoinToken


def time(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    out = Timestamp()
    out.FromDatetime(value.astimezone(UTC))
    return out


# -- pipelines ----------------------------------------------------------------------------------------------------------


def pipeline(one: pipelines.Pipeline) -> pipeline_pb2.Pipeline:
    name = f"projects/{one.project}/pipelines/{one.id}"
    return pipeline_pb2.Pipeline(
        name=name,
        display_name=one.display_name,
        description=one.description,
        labels=one.labels,
        latest_version=f"{name}/versions/v{one.latest_version}" if one.latest_version else "",
        creator=one.creator,
        create_time=time(one.create_time),
        update_time=time(one.update_time),
        etag=str(one.revision),
    )


def pipeline_version(one: pipelines.PipelineVersion) -> pipeline_pb2.PipelineVersion:
    return pipeline_pb2.PipelineVersion(
        name=f"projects/{one.project}/pipelines/{one.pipeline}/versions/v{one.number}",
        document=one.document,
        media_type=one.media_type,
        canonical_document=one.canonical_document,
        pipeline_digest=one.pipeline_digest,
        creator=one.creator,
        create_time=time(one.create_time),
    )


def version_name(name: str) -> tuple[str, str, int | None]:
    """(project, pipeline, number) of a pipeline version's name; None for a last part that is no "v" and a number."""
    ids = parse("projects/{project}/pipelines/{pipeline}/versions/{version}", name)
    return ids["project"], ids["pipeline"], _number(ids["version"].removeprefix("v"), ids["version"][:1] == "v")


def attempt_number(text: str) -> int | None:
    return _number(text, True)


def _number(digits: str, ok: bool) -> int | None:
    return (
        int(digits) if ok and digits.isascii() and digits.isdigit() and len(digits) < 18 and digits[0] != "0" else None
    )


# -- runs ---------------------------------------------------------------------------------------------------------------


def bindings_in(project: str, told: run_pb2.Bindings) -> Bindings:
    """Raises: BindingsInvalid."""
    try:
        made = Bindings(
            datasets=tuple(
                DatasetBinding(dataset_ref=d.dataset_ref, dataset_version=d.dataset_version) for d in told.datasets
            ),
            code=tuple(CodeBinding(step=c.step or None, code_snapshot=c.code_snapshot) for c in told.code),
            parameters=tuple(
                Parameter(name=p.name, value=getattr(p.value, p.value.WhichOneof("kind"))) for p in told.parameters
            ),
            labels=dict(told.labels),
            experiment=told.experiment or None,
        )
        made.check_project(f"projects/{project}")
    except DocumentError as error:
        raise BindingsInvalid(
            str(error), violations=[FieldViolation(f"bindings.{error.path}".rstrip("."), error.reason, error.message)]
        ) from None
    return made


def bindings_out(document: bytes) -> run_pb2.Bindings:
    """Of a stored document: it was checked when it came in."""
    one = json.loads(document)
    out = run_pb2.Bindings(labels=one.get("labels", {}), experiment=one.get("experiment", ""))
    for dataset in one.get("datasets", ()):
        out.datasets.add(dataset_ref=dataset["datasetRef"], dataset_version=dataset["datasetVersion"])
    for code in one.get("code", ()):
        out.code.add(step=code.get("step", ""), code_snapshot=code["codeSnapshot"])
    for parameter in one.get("parameters", ()):
        ((kind, value),) = parameter["value"].items()
        field, convert = _VALUES[kind]
        out.parameters.add(name=parameter["name"], value=value_pb2.Value(**{field: convert(value)}))
    return out


_VALUES = {
    "string": ("string_value", str),
    # A decimal string: 64 bits do not fit into a JSON number.
    "int64": ("int_value", int),
    "double": ("double_value", float),
    "bool": ("bool_value", bool),
}


def run(row: Any, *, full: bool = False) -> run_pb2.Run:
    """`full`: with bindings and plan, which the row must hold then."""
    out = run_pb2.Run(
        name=f"projects/{row.project}/runs/{row.id}",
        pipeline_version=row.pipeline_version,
        state=f"STATE_{row.state}",
        state_reason=row.reason,
        state_message=row.message,
        plan_digest=row.plan_digest,
        policy_snapshot_digest=row.policy_snapshot_digest,
        decision=row.decision,
        labels=dict(row.labels),
        experiment=row.experiment,
        creator=row.creator,
        create_time=time(row.create_time),
        start_time=time(row.start_time),
        end_time=time(row.end_time),
        etag=str(row.revision),
        scheduling=run_pb2.Scheduling(pool=row.pool, node_labels=dict(row.node_labels), priority=row.priority),
    )
    if full:
        out.bindings.CopyFrom(bindings_out(row.bindings))
        out.plan = row.plan
    return out


def step(
    run_name: str, row: Any, outputs: Sequence[Any], *, action: bytes = b"", why: Why | None = None
) -> run_pb2.Step:
    """`why`: why it waits, of a READY step."""
    return run_pb2.Step(
        name=f"{run_name}/steps/{row.name}",
        state=f"STATE_{row.state}",
        state_reason=why.reason if why else row.reason,
        state_message=why.message if why else row.message,
        dependencies=row.dependencies,
        recipe_digest=row.recipe_digest,
        action_digest=row.action_digest,
        action=action,
        current_attempt=row.current_attempt,
        outputs=[
            run_pb2.StepOutput(
                name=o.name,
                manifest_digest=o.manifest_digest,
                artifact=o.artifact,
                file_count=o.file_count,
                size_bytes=o.size_bytes,
            )
            for o in outputs
        ],
        metrics=[metric_pb2.Metric(name=n, value=v) for n, v in sorted(row.metrics.items())],
        ready_time=time(row.ready_time),
        start_time=time(row.start_time),
        end_time=time(row.end_time),
        obstacles=obstacles(why) if why else (),
    )


def obstacles(why: Why) -> list[run_pb2.WaitObstacle]:
    return [run_pb2.WaitObstacle(reason=o.reason, agents=o.agents, message=o.example) for o in why.obstacles]


def attempt(row: Any, *, full: bool = False) -> run_pb2.Attempt:
    out = run_pb2.Attempt(
        name=row.name,
        state=f"STATE_{row.state}",
        agent=f"agents/{row.agent}",
        failure_class=f"FAILURE_CLASS_{row.failure_class}" if row.failure_class else 0,
        state_reason=row.reason,
        state_message=row.message,
        log_size_bytes=row.log_size,
        log_truncated=row.log_truncated,
        lease_time=time(row.lease_time),
        start_time=time(row.start_time),
        end_time=time(row.end_time),
    )
    if row.exit_code is not None:
        out.exit_code = row.exit_code
    if full:
        out.contract = row.contract
        out.provenance = row.provenance or b""
        out.sandbox_report = row.sandbox_report or b""
    return out


# -- agents -------------------------------------------------------------------------------------------------------------


def agent(one: AgentRecord, attempts: Sequence[str]) -> agent_pb2.Agent:
    it = one.agent
    state, reason = agents.state(it)
    key = Ed25519PublicKey.from_public_bytes(one.attestation_key)
    return agent_pb2.Agent(
        name=it.name,
        state=f"STATE_{state}",
        state_reason=reason,
        state_message=it.message,
        pool=it.pool,
        projects=sorted(f"projects/{p}" for p in it.projects),
        labels=it.labels,
        claimed=node_pb2.NodeInfo.FromString(one.claimed) if one.claimed else None,
        attempts=attempts,
        enroll_time=time(one.enroll_time),
        last_seen_time=time(one.last_seen_time),
        certificate_expire_time=time(one.certificate_expire_time),
        etag=str(it.revision),
        drain_time=time(it.drain_time),
        drain_deadline_time=time(it.drain_until),
        drained_time=time(it.drained_time),
        revoke_time=time(it.revoke_time),
        clock_offset=timedelta(seconds=_bounded(it.clock_skew_seconds)) if one.last_seen_time else None,
        attestation_key_id=dsse.key_id(key),
        attestation_expire_time=time(one.attestation_not_after),
    )


def _bounded(seconds: float) -> float:
    """A node may claim any time; a Duration holds ten thousand years."""
    return max(-3e11, min(3e11, seconds))


def agent_attempt(row: Any) -> agent_pb2.AgentAttempt:
    ids = parse("projects/{project}/runs/{run}/steps/{step}/attempts/{attempt}", row.name)
    project = f"projects/{ids['project']}"
    return agent_pb2.AgentAttempt(
        attempt=row.name,
        project=project,
        run=f"{project}/runs/{ids['run']}",
        state=f"STATE_{row.state}",
        state_reason=row.reason,
        lease_time=time(row.lease_time),
        end_time=time(row.end_time),
        provenance_digest=f"sha256:{row.provenance_sha256}" if row.provenance_sha256 else "",
        contract_digest=f"sha256:{row.contract_sha256}",
    )


def agent_log_line(row: Any) -> agent_pb2.AgentLogLine:
    return agent_pb2.AgentLogLine(
        index=row.index,
        receive_time=time(row.receive_time),
        client_time=time(row.client_time),
        level=row.level,
        logger=row.logger,
        message=row.message,
        fields=row.fields,
        dropped_before=row.dropped_before,
    )


def join_token(one: JoinToken, now: datetime) -> agent_pb2.JoinToken:
    if one.used_by is not None:
        state = "USED"
    elif one.revoke_time is not None:
        state = "REVOKED"
    else:
        state = "EXPIRED" if now >= one.expire_time else "ACTIVE"
    return agent_pb2.JoinToken(
        name=f"joinTokens/{one.id}",
        state=f"STATE_{state}",
        agent=f"agents/{one.agent}",
        pool=one.pool,
        projects=[f"projects/{p}" for p in one.projects],
        labels=one.labels,
        replace_identity=one.replace_identity,
        creator=one.creator,
        create_time=time(one.create_time),
        expire_time=time(one.expire_time),
        use_time=time(one.used_time),
    )
