"""Provenance: the agent's signed statement of what an attempt ran and what came out.

An in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with the predicate SLSA
Provenance v1 (https://slsa.dev/spec/v1.0/provenance), written as canonical JSON with a `type` of ours beside theirs;
readers of in-toto ignore fields they do not know. Signed as DSSE under our own payload type, like every document.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from . import canonical, dsse
from .contract import Contract
from .errors import DocumentError
from .kinds import AGENT, ATTEMPT, DIGEST, LABEL, NUMBER, TIME, count, each, int64, mapping, record, text
from .shape import Record, digest_of, field

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://animus.dev/attempt/v1"
METRIC_NAME = text(128, r"[A-Za-z0-9_./-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDigest(Record):
    """An output as it was hashed: its manifest, and how many files and bytes that lists."""

    name: str = field(LABEL)
    manifest: str = field(DIGEST)
    files: int = field(count(0, 1_000_000))
    bytes: int = field(int64(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency(Record):
    """Something the attempt read: `uri` is a resource name or `animus:image` and the like."""

    name: str = field(text(128))
    uri: str = field(text(512))
    digest: str = field(DIGEST)


@dataclass(frozen=True, kw_only=True)  # no slots: super() does not survive them
class Provenance(Record):
    """The statement's content, in our words. `to_bytes` puts it into the form of in-toto and SLSA."""

    NOUN: ClassVar[str] = "provenance"

    attempt: str = field(ATTEMPT)
    agent: str = field(AGENT)
    agent_version: str = field(text(64))
    contract_digest: str = field(DIGEST)
    plan_digest: str = field(DIGEST)
    recipe_digest: str = field(DIGEST)
    action_digest: str = field(DIGEST)
    dependencies: tuple[Dependency, ...] = field(each(record(Dependency), key=lambda one: one.name))
    outputs: tuple[OutputDigest, ...] = field(each(record(OutputDigest), key=lambda one: one.name))
    metrics: Mapping[str, float] = field(mapping(NUMBER, METRIC_NAME, 1000))
    exit_code: int = field(count(0, 255))
    sandbox_report_digest: str = field(DIGEST)
    start_time: datetime = field(TIME)
    end_time: datetime = field(TIME)
    """By the agent's clock, and so a claim; the place of the commit in the log is the proof."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "_type": STATEMENT_TYPE,
            "type": canonical.type_of(self.NOUN),
            "subject": [
                {"name": one.name, "digest": _digest(one.manifest), "annotations": _sizes(one)} for one in self.outputs
            ]
            # A statement has a subject; where a step has no outputs it is the action itself.
            or [{"name": "action", "digest": _digest(self.action_digest)}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"actionDigest": self.action_digest, "recipeDigest": self.recipe_digest},
                    "internalParameters": {"planDigest": self.plan_digest, "contractDigest": self.contract_digest},
                    "resolvedDependencies": [
                        {"name": one.name, "uri": one.uri, "digest": _digest(one.digest)} for one in self.dependencies
                    ],
                },
                "runDetails": {
                    "builder": {"id": self.agent, "version": {"animus-agent": self.agent_version}},
                    "metadata": {
                        "invocationId": self.attempt,
                        "startedOn": canonical.format_time(self.start_time),
                        "finishedOn": canonical.format_time(self.end_time),
                    },
                    "byproducts": [
                        {"name": "exit-code", "annotations": {"value": self.exit_code}},
                        {"name": "metrics", "annotations": dict(self.metrics)},
                        {"name": "sandbox-report", "digest": _digest(self.sandbox_report_digest)},
                    ],
                },
            },
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Reads only what `to_dict` writes. Raises DocumentError STATEMENT_INVALID, or a field's own reason."""
        try:
            definition = value["predicate"]["buildDefinition"]
            run = value["predicate"]["runDetails"]
            code, metrics, report = run["byproducts"]
            fields = {
                "attempt": run["metadata"]["invocationId"],
                "agent": run["builder"]["id"],
                "agentVersion": run["builder"]["version"]["animus-agent"],
                "contractDigest": definition["internalParameters"]["contractDigest"],
                "planDigest": definition["internalParameters"]["planDigest"],
                "recipeDigest": definition["externalParameters"]["recipeDigest"],
                "actionDigest": definition["externalParameters"]["actionDigest"],
                "dependencies": [
                    {"name": one["name"], "uri": one["uri"], "digest": "sha256:" + one["digest"]["sha256"]}
                    for one in definition["resolvedDependencies"]
                ],
                "outputs": [
                    {"name": one["name"], "manifest": "sha256:" + one["digest"]["sha256"], **one["annotations"]}
                    for one in value["subject"]
                    if "annotations" in one
                ],
                "metrics": metrics["annotations"],
                "exitCode": code["annotations"]["value"],
                "sandboxReportDigest": "sha256:" + report["digest"]["sha256"],
                "startTime": run["metadata"]["startedOn"],
                "endTime": run["metadata"]["finishedOn"],
            }
        except (KeyError, TypeError, ValueError):
            raise DocumentError("STATEMENT_INVALID", "not a statement in the form of ours") from None
        return super().from_dict(fields)

    def to_bytes(self) -> bytes:
        try:
            return canonical.write(self.to_dict()).encode()
        except UnicodeEncodeError:  # a lone surrogate: this way says where
            return canonical.dumps(self.to_dict())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        try:
            # As Document.from_bytes: what is wrong is read again, for the reason.
            statement = cls.from_dict(json.loads(data.decode()))
            if statement.to_bytes() == data:
                return statement
        except (ValueError, RecursionError, AttributeError):
            pass
        statement = cls.from_dict(canonical.loads(data, canonical.type_of(cls.NOUN)))
        if statement.to_bytes() != data:
            raise DocumentError("NOT_CANONICAL", "the bytes are not this document's one form")
        return statement

    @property
    def digest(self) -> str:
        return digest_of(self.to_bytes())


def dependencies_of(contract: Contract) -> tuple[Dependency, ...]:
    """What a contract says that its attempt reads: image, lock, code, inputs."""
    found = [
        Dependency(name="image", uri="animus:image", digest=contract.action.image),
        Dependency(
            name="environment-lock",
            uri=contract.environment_lock.resource,
            digest=contract.environment_lock.digest,
        ),
    ]
    if contract.code:
        found.append(Dependency(name="code", uri=contract.code.resource, digest=contract.code.digest))
    found += (Dependency(name=f"inputs/{one.name}", uri=one.resource, digest=one.manifest) for one in contract.inputs)
    return tuple(found)


def check_against(statement: Provenance, contract: Contract, outputs: Iterable[OutputDigest]) -> None:
    """Holds a statement against the contract and the outputs that were reported with it.

    Raises DocumentError STATEMENT_MISMATCH, whose path names the field.
    """
    expected = {
        "attempt": contract.attempt,
        "agent": contract.agent,
        "contract_digest": contract.digest,
        "plan_digest": contract.plan_digest,
        "recipe_digest": contract.recipe_digest,
        "action_digest": contract.action_digest,
        "outputs": tuple(sorted(outputs, key=lambda one: one.name.encode())),
        "dependencies": tuple(sorted(dependencies_of(contract), key=lambda one: one.name.encode())),
    }
    for attribute, value in expected.items():
        if getattr(statement, attribute) != value:
            raise DocumentError("STATEMENT_MISMATCH", "is not what the contract or the report says", attribute)


def open_provenance(envelope: bytes, keys: dsse.Keys) -> tuple[Provenance, str]:
    """Verifies a signed statement; returns it and the id of the attestation key. Raises DocumentError."""
    payload, keyid = dsse.verify(envelope, Provenance.NOUN, keys)
    return Provenance.from_bytes(payload), keyid


def _digest(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}


def _sizes(output: OutputDigest) -> dict[str, Any]:
    return {"files": output.files, "bytes": str(output.bytes)}
