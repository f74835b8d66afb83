"""Contracts and grants: signed here, and held against what comes back."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_kit.digest import sha256
from animus_kit.documents import dsse
from animus_kit.documents.contract import (
    DEFAULT_LIMITS,
    TERMINATION_GRACE_SECONDS,
    Contract,
    Grant,
    Limits,
    Material,
    NamedDigest,
    Resources,
)
from animus_kit.documents.errors import DocumentError
from animus_kit.documents.result import METRIC_NAME, OutputDigest, check_against, open_provenance
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.ids import Ids
from animus_orchestrator.domain.attempt import RESULTS, AttemptState, Output, Result
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.store.facts import input_resource, read_action
from animus_orchestrator.store.queue import AttemptRow, StepPlan

GRANT_GRACE = timedelta(hours=24)
"""How long after its timeout an attempt may still upload: the control plane may have been away."""

MANIFEST_BYTES = 64 << 20
"""Room for the manifests and the log beside the outputs themselves."""

ISSUED_KEPT = 2000

_STATE = run_pb2.Attempt.State
_CLASS = run_pb2.Attempt.FailureClass


class ResultRefused(Exception):
    """A result that does not lie within its contract. `tainted`: its proof does not hold."""

    def __init__(self, reason: str, message: str, *, tainted: bool = False):
        super().__init__(message)
        self.reason = reason
        self.tainted = tainted


class Contracts:
    """Holds the contract key."""

    def __init__(self, key: Ed25519PrivateKey, ids: Ids, lease: timedelta, limits: Limits = DEFAULT_LIMITS):
        self._signer = dsse.Signer(key)
        self._ids = ids
        self._lease_seconds = max(1, int(lease.total_seconds()))
        self._limits = limits
        # Reading a contract costs more than making it: what this process has issued lately is not read again.
        self._issued: OrderedDict[str, Contract] = OrderedDict()

    def issue(
        self,
        plan: StepPlan,
        attempt: str,
        number: int,
        agent: str,
        now: datetime,
        gpu_uuids: tuple[str, ...] = (),
    ) -> tuple[bytes, bytes]:
        """Signs (contract, grant) for one attempt on one agent. Both are DSSE envelopes."""
        action = read_action(plan.action)
        manifests = {one.name: one.manifest for one in action.inputs}
        readable = {m for m in (*manifests.values(), action.code) if m}
        grant = Grant(
            id=self._ids.uuid(),
            project=f"projects/{plan.project}",
            attempt=attempt,
            agent=f"agents/{agent}",
            readable_manifests=tuple(readable),
            readable_images=(action.image,),
            write_bytes=self._limits.output_bytes + MANIFEST_BYTES,
            write_blobs=self._limits.output_files + len(action.outputs),
            issue_time=now,
            expire_time=now + timedelta(seconds=plan.timeout_seconds) + GRANT_GRACE,
        )
        contract = Contract(
            project=f"projects/{plan.project}",
            attempt=attempt,
            number=number,
            agent=f"agents/{agent}",
            plan_digest=plan.plan_digest,
            recipe_digest=plan.recipe_digest,
            action_digest=plan.action_digest,
            action=action,
            grant_digest=grant.digest,
            decision_digest=plan.decision_digest,
            inputs=tuple(
                Material(
                    name=one["name"],
                    kind=one["kind"],
                    resource=input_resource(plan.project, plan.run, one),
                    manifest=manifests[one["name"]],
                )
                for one in plan.inputs
            ),
            code=NamedDigest(**plan.code) if plan.code else None,
            environment_lock=NamedDigest(**plan.environment_lock),
            resources=Resources(cpu_millis=plan.cpu_millis, memory_bytes=plan.memory_bytes, gpu=plan.gpus),
            gpu_uuids=gpu_uuids or None,
            limits=self._limits,
            lease_seconds=self._lease_seconds,
            timeout_seconds=plan.timeout_seconds,
            termination_grace_seconds=TERMINATION_GRACE_SECONDS,
            required_capabilities=tuple(plan.capabilities),
            issue_time=now,
        )
        envelope = self._signer.sign(contract.to_bytes(), Contract.NOUN)
        self._issued[attempt] = contract
        while len(self._issued) > ISSUED_KEPT:
            self._issued.popitem(last=False)
        return envelope, self._signer.sign(grant.to_bytes(), Grant.NOUN)

    def forget(self, attempts: Iterable[str]) -> None:
        """Contracts that were issued in a transaction that did not commit, or of which nobody knows whether it did."""
        for attempt in attempts:
            self._issued.pop(attempt, None)

    def unknown(self, attempts: Iterable[str]) -> set[str]:
        """Those whose contract has to be read to check a result. An attempt is leased once, so that what this process
        signed for it and committed is what the database holds."""
        return {attempt for attempt in attempts if attempt not in self._issued}

    def _read(self, row: AttemptRow) -> Contract:
        known = self._issued.get(row.name)
        # Its signature need not be checked again: it comes from our own database.
        return known or Contract.from_bytes(dsse.open_unverified(row.contract or b"", Contract.NOUN)[0])

    def check(
        self,
        row: AttemptRow,
        told: pb.AttemptResult,
        attestation_key: bytes,
        attestation_not_after: datetime | None = None,
        now: datetime | None = None,
    ) -> Result:
        """Holds an agent's result against the contract it was given. Raises: ResultRefused.

        `attestation_not_after`: until when the agent's key is certified, by the clock that `now` is read from. That the
        agent is not revoked is held by the writer, in the transaction that takes the result.
        """
        state = AttemptState(_STATE.Name(told.state).removeprefix("STATE_")) if told.state in _STATE.values() else None
        if state not in RESULTS:
            raise ResultRefused("STATE_NOT_REPORTABLE", "an attempt ends as SUCCEEDED, FAILED or CANCELED")
        exit_code = told.exit_code if told.HasField("exit_code") else None
        if state is not AttemptState.SUCCEEDED:
            return Result(
                state=state,
                failure_class=_failure_class(state, told.failure_class),
                reason=told.reason,
                message=_printable(told.message),
                exit_code=exit_code,
            )
        if attestation_not_after is not None and now is not None and now >= attestation_not_after:
            raise ResultRefused("ATTESTATION_EXPIRED", "the agent's attestation certificate has expired", tainted=True)
        contract = self._read(row)
        outputs = _outputs(told, contract)
        metrics = _metrics(told)
        _check_provenance(told, contract, outputs, metrics, attestation_key)
        return Result(
            state=state,
            exit_code=exit_code,
            outputs=tuple(Output(o.name, o.manifest, o.files, o.bytes) for o in outputs),
            metrics=metrics,
        )


def _failure_class(state: AttemptState, told: int) -> FailureClass:
    if state is AttemptState.CANCELED:
        return FailureClass.CANCELED
    name = _CLASS.Name(told).removeprefix("FAILURE_CLASS_") if told in _CLASS.values() else ""
    # CANCELED is the end of a cancel and no reason to fail; LOST_NODE is for the server to say.
    if name in ("", "UNSPECIFIED", "CANCELED", "LOST_NODE"):
        return FailureClass.INFRASTRUCTURE
    return FailureClass(name)


def _outputs(told: pb.AttemptResult, contract: Contract) -> list[OutputDigest]:
    declared = {one.name for one in contract.action.outputs}
    named = [one.name for one in told.outputs]
    if len(set(named)) != len(named) or set(named) != declared:
        raise ResultRefused("OUTPUTS_OUTSIDE_CONTRACT", "the outputs are not those of the contract")
    if sum(o.size_bytes for o in told.outputs) > contract.limits.output_bytes:
        raise ResultRefused("OUTPUTS_OUTSIDE_CONTRACT", "the outputs are larger than the contract allows")
    if sum(o.file_count for o in told.outputs) > contract.limits.output_files:
        raise ResultRefused("OUTPUTS_OUTSIDE_CONTRACT", "the outputs have more files than the contract allows")
    return [
        OutputDigest(name=o.name, manifest=o.manifest_digest, files=o.file_count, bytes=o.size_bytes)
        for o in told.outputs
    ]


def _metrics(told: pb.AttemptResult) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in told.metrics:
        try:
            METRIC_NAME.check(one.name)
        except DocumentError as error:
            raise ResultRefused("METRICS_INVALID", str(error)) from None
        if one.name in found or not math.isfinite(one.value):
            raise ResultRefused("METRICS_INVALID", f"metric {one.name} is doubled or not finite")
        found[one.name] = one.value
    return found


def _check_provenance(
    told: pb.AttemptResult,
    contract: Contract,
    outputs: list[OutputDigest],
    metrics: Mapping[str, float],
    attestation_key: bytes,
) -> None:
    try:
        statement, _ = open_provenance(told.provenance, _keys(attestation_key))
        check_against(statement, contract, outputs)
        report = SandboxReport.from_bytes(told.sandbox_report)
    except DocumentError as error:
        raise ResultRefused("PROVENANCE_INVALID", f"{error.reason}: {error}"[:1024], tainted=True) from None
    if statement.sandbox_report_digest != sha256(told.sandbox_report) or report.attempt != contract.attempt:
        raise ResultRefused("PROVENANCE_INVALID", "the sandbox report is not the signed one", tainted=True)
    if set(report.gpus) != set(contract.gpu_uuids or ()):
        raise ResultRefused("PROVENANCE_INVALID", "it ran with other GPUs than the contract's", tainted=True)
    # A way out that was given is told of, and none is told of that was not.
    let_out = report.egress.allow if report.egress else None
    if let_out != (contract.action.network.allow or None):
        raise ResultRefused("PROVENANCE_INVALID", "the egress of the report is not the contract's", tainted=True)
    # A step that succeeded is one whose first process ended with 0, and nothing else.
    if (told.exit_code, statement.exit_code) != (0, 0):
        raise ResultRefused("PROVENANCE_INVALID", "a success with an exit status other than 0", tainted=True)
    if dict(statement.metrics) != dict(metrics):
        raise ResultRefused("PROVENANCE_INVALID", "the metrics are not the signed ones", tainted=True)


@functools.lru_cache(maxsize=4096)
def _keys(attestation_key: bytes) -> Mapping[str, Ed25519PublicKey]:
    key = Ed25519PublicKey.from_public_bytes(attestation_key)
    return {dsse.key_id(key): key}


def _printable(text: str) -> str:
    """An agent's message is hostile text: no control characters but newlines and tabs."""
    return "".join(c for c in text if c in "\n\t" or (c.isprintable())).strip()[:4096]
