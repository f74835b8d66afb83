"""Decisions and the policy snapshots they are made under."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from .kinds import DIGEST, LABEL, PROJECT, RESOURCE, TIME, each, one_of, record, text
from .shape import Document, Record, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef(Record):
    """A policy or a rule, by the digest of its text."""

    id: str = field(text(128, "[A-Za-z0-9][A-Za-z0-9._-]*"))
    digest: str = field(DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot(Document):
    """Everything that decides in a project, fixed. Bound at submit and used for the run's whole life."""

    NOUN: ClassVar[str] = "policy-snapshot"

    project: str = field(PROJECT)
    policy_set_digest: str = field(DIGEST)
    policies: tuple[PolicyRef, ...] = field(each(record(PolicyRef), key=lambda policy: policy.id))
    rules: tuple[PolicyRef, ...] = field(each(record(PolicyRef), key=lambda rule: rule.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Document):
    """One decision: who asked for what, under which snapshot, on which facts, and what was answered why.

    `policies` are those that determined the effect; none for a denial by default.
    """

    NOUN: ClassVar[str] = "decision"

    id: str = field(LABEL)
    project: str = field(PROJECT)
    point: str = field(one_of("SUBMIT"))
    effect: str = field(one_of("ALLOW", "DENY"))
    subject: str = field(text(256))
    groups: tuple[str, ...] = field(each(text(256), key=str, maximum=1000))
    resource: str = field(RESOURCE)
    policy_snapshot_digest: str = field(DIGEST)
    facts_digest: str = field(DIGEST)
    policies: tuple[str, ...] = field(each(text(128), key=str))
    message: str = field(text(4096, empty=True))
    time: datetime = field(TIME)
