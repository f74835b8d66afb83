"""The contract, a signed order to run one attempt on one agent, and the grant, its right to blobs.

Both are signed by the orchestrator with its `contract` key and verified offline: the contract by the agent, the grant by
the agent and by catalog's blob listener. The contract holds the grant's digest, so that neither can be swapped.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from . import dsse
from .action import Action, action_digest
from .errors import DocumentError
from .kinds import AGENT, ATTEMPT, DIGEST, PROJECT, RESOURCE, TIME, UUID, count, each, int64, one_of, record, text
from .shape import Document, Record, field

TERMINATION_GRACE_SECONDS = 10
GPU_UUID = "[A-Za-z0-9][A-Za-z0-9._:-]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources(Record):
    """What is reserved for a step and bounds it. Thousandths of a core, bytes, whole devices."""

    cpu_millis: int = field(int64(1, 4_096_000))
    memory_bytes: int = field(int64(1))
    gpu: int = field(count(0, 1024))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Record):
    """Bounds that a step does not declare: the platform's own."""

    pids: int = field(count(1))
    tmp_bytes: int = field(int64(0))
    output_bytes: int = field(int64(0))
    output_files: int = field(count(0, 1_000_000))
    log_bytes: int = field(int64(0))


DEFAULT_LIMITS = Limits(pids=1024, tmp_bytes=256 << 20, output_bytes=10 << 30, output_files=100_000, log_bytes=64 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material(Record):
    """What an input is called: the resource behind a manifest of the action, for provenance. Not part of the action."""

    name: str = field(text(63, "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"))
    kind: str = field(one_of("dataset", "artifact"))
    resource: str = field(RESOURCE)
    manifest: str = field(DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDigest(Record):
    """A resource and the digest it stood for when the run was planned."""

    resource: str = field(RESOURCE)
    digest: str = field(DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Record):
    """The newest checkpoint that the orchestrator knew: the log cannot later be older than it."""

    origin: str = field(text(256))
    size: int = field(int64(0))
    root: str = field(DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Document):
    """The right of one agent to the blobs of one attempt."""

    NOUN: ClassVar[str] = "grant"

    id: str = field(UUID)
    project: str = field(PROJECT)
    attempt: str = field(ATTEMPT)
    agent: str = field(AGENT)
    readable_manifests: tuple[str, ...] = field(each(DIGEST, key=str, maximum=2000))
    readable_images: tuple[str, ...] = field(each(DIGEST, key=str, maximum=16))
    write_bytes: int = field(int64(0))
    write_blobs: int = field(int64(0))
    issue_time: datetime = field(TIME)
    expire_time: datetime = field(TIME)

    def check(self) -> None:
        if not self.attempt.startswith(self.project + "/"):
            raise DocumentError("OUTSIDE_PROJECT", "lies outside the project", "attempt")
        if self.expire_time <= self.issue_time:
            raise DocumentError("OUT_OF_RANGE", "must be after issueTime", "expireTime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(Document):
    """The order for one attempt. `number` is the attempt's number, which is its fencing epoch."""

    NOUN: ClassVar[str] = "contract"

    project: str = field(PROJECT)
    attempt: str = field(ATTEMPT)
    number: int = field(int64(1))
    agent: str = field(AGENT)
    plan_digest: str = field(DIGEST)
    recipe_digest: str = field(DIGEST)
    action_digest: str = field(DIGEST)
    action: Action = field(record(Action))
    grant_digest: str = field(DIGEST)
    decision_digest: str = field(DIGEST)
    checkpoint: Checkpoint | None = field(record(Checkpoint), optional=True)
    inputs: tuple[Material, ...] = field(each(record(Material), key=lambda one: one.name))
    code: NamedDigest | None = field(record(NamedDigest), optional=True)
    environment_lock: NamedDigest = field(record(NamedDigest))
    resources: Resources = field(record(Resources))
    gpu_uuids: tuple[str, ...] | None = field(each(text(128, GPU_UUID), key=str, maximum=256, least=1), optional=True)
    """The very devices, as their driver names them, that are this attempt's alone. Absent where `resources.gpu` is 0."""
    limits: Limits = field(record(Limits))
    lease_seconds: int = field(count(1, 86_400))
    timeout_seconds: int = field(count(1, 30 * 86_400))
    termination_grace_seconds: int = field(count(0, 3600))
    required_capabilities: tuple[str, ...] = field(each(text(63, "[a-z][a-z0-9-]*"), key=str, maximum=256))
    """Canaries that must have passed on the node; what is missing is refused, never weakened."""
    issue_time: datetime = field(TIME)

    @property
    def run(self) -> str:
        return self.attempt.split("/steps/")[0]

    @property
    def step(self) -> str:
        """The step's own name, without its parents."""
        return self.attempt.split("/")[5]

    def check(self) -> None:
        if not self.attempt.startswith(self.project + "/"):
            raise DocumentError("OUTSIDE_PROJECT", "lies outside the project", "attempt")
        if self.attempt.rsplit("/", 1)[1] != str(self.number):
            raise DocumentError("ATTEMPT_NUMBER", "is not the attempt's", "number")
        if action_digest(self.action) != self.action_digest:
            raise DocumentError("ACTION_DIGEST", "is not the action's", "actionDigest")
        if {one.name: one.manifest for one in self.inputs} != {one.name: one.manifest for one in self.action.inputs}:
            raise DocumentError("INPUTS", "do not name the action's inputs", "inputs")
        if (self.code.digest if self.code else None) != self.action.code:
            raise DocumentError("CODE", "is not the action's", "code")
        if self.gpu_uuids is not None and len(self.gpu_uuids) != self.resources.gpu:
            raise DocumentError("GPUS", f"names {len(self.gpu_uuids)}, {self.resources.gpu} are reserved", "gpuUuids")

    def manifests(self) -> frozenset[str]:
        """Every manifest that the attempt reads."""
        inputs = (one.manifest for one in self.action.inputs)
        return frozenset(filter(None, (*inputs, self.action.code)))


def open_contract(contract: bytes, grant: bytes, keys: dsse.Keys, agent: str) -> tuple[Contract, Grant]:
    """Verifies both envelopes and everything that binds them to each other and to this agent.

    `keys` are those of purpose `contract` in the trust bundle in force. Raises DocumentError, besides dsse.verify's
    reasons with WRONG_AGENT, GRANT_MISMATCH or OUTSIDE_GRANT. Time plays no part: an agent's lease runs on its
    monotonic clock, the grant's expiry is catalog's to check.
    """
    order = Contract.from_bytes(dsse.verify(contract, Contract.NOUN, keys)[0])
    right = Grant.from_bytes(dsse.verify(grant, Grant.NOUN, keys)[0])
    if order.agent != agent:
        raise DocumentError("WRONG_AGENT", f"the contract is for {order.agent}", "agent")
    if order.grant_digest != right.digest:
        raise DocumentError("GRANT_MISMATCH", "is not the digest of the grant at hand", "grantDigest")
    if (right.agent, right.attempt, right.project) != (order.agent, order.attempt, order.project):
        raise DocumentError("GRANT_MISMATCH", "the grant is for another agent or attempt")
    if not order.manifests() <= set(right.readable_manifests):
        raise DocumentError("OUTSIDE_GRANT", "the action reads a manifest that the grant does not name")
    if order.action.image not in right.readable_images:
        raise DocumentError("OUTSIDE_GRANT", "the action's image is not in the grant")
    return order, right


def open_grant(grant: bytes, keys: dsse.Keys, agent: str, now: datetime) -> Grant:
    """What catalog's blob listener accepts from `agent`, by the verifier's own clock.

    Raises DocumentError GRANT_INVALID (with what was wrong in the message) or GRANT_EXPIRED.
    """
    try:
        right = Grant.from_bytes(dsse.verify(grant, Grant.NOUN, keys)[0])
    except DocumentError as error:
        raise DocumentError("GRANT_INVALID", str(error)) from None
    if right.agent != agent:
        raise DocumentError("GRANT_INVALID", "the grant is another agent's", "agent")
    if now >= right.expire_time:
        raise DocumentError("GRANT_EXPIRED", "the grant has expired", "expireTime")
    return right
