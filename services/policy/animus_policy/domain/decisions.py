"""Decisions: what was asked, under which snapshot, on which facts, and what came of it, as one document."""

import enum
from dataclasses import dataclass
from datetime import datetime

from animus_kit.digest import sha256
from animus_kit.documents import canonical
from animus_kit.documents import decision as documents
from animus_kit.documents.errors import DocumentError

from .engine import SUBMIT, PolicySet, Verdict
from .errors import FactsNotCanonical
from .roles import Principal, Role


class Point(enum.Enum):
    SUBMIT = "SUBMIT"


class Effect(enum.Enum):
    ALLOW = "ALLOW"
    DENY = "DENY"


# What Cedar is asked at each point.
_ACTIONS = {Point.SUBMIT: SUBMIT}


@dataclass(frozen=True, slots=True)
class Question:
    """What the caller of Decide hands over. facts: canonical JSON, or nothing; resource: what is decided on."""

    project: str
    point: Point
    principal: Principal
    resource: str
    facts: bytes
    snapshot_digest: str

    @property
    def facts_digest(self) -> str:
        return sha256(self.facts)


@dataclass(frozen=True, slots=True)
class Decision:
    """name: projects/{p}/decisions/{d}. document: canonical bytes, exactly as digested. policies: that determined it."""

    name: str
    project: str
    point: Point
    effect: Effect
    document: bytes
    digest: str
    snapshot_digest: str
    message: str
    create_time: datetime


def check_facts(facts: bytes) -> None:
    """Raises FactsNotCanonical: a digest over bytes with a second form would bind nothing."""
    if facts:
        try:
            canonical.parse(facts)
        except DocumentError as error:
            raise FactsNotCanonical(str(error)) from None


def evaluate(
    policy_set: PolicySet, question: Question, held: list[tuple[str, Role]], platform_admins: frozenset[str]
) -> Verdict:
    """Asks the policy set, which may read the digest of the facts and what is decided on."""
    return policy_set.authorize(
        question.principal,
        held,
        _ACTIONS[question.point],
        question.project,
        platform_admins=platform_admins,
        context={"factsDigest": question.facts_digest, "resource": question.resource},
    )


def decide(question: Question, verdict: Verdict, decision_id: str, now: datetime) -> Decision:
    """Puts a verdict into a document. Raises DocumentError for a question that no document can hold."""
    effect = Effect.ALLOW if verdict.allowed else Effect.DENY
    message = explain(effect, question.principal.subject, verdict.reasons)
    document = documents.Decision(
        id=decision_id,
        project=question.project,
        point=question.point.value,
        effect=effect.value,
        subject=question.principal.subject,
        groups=tuple(question.principal.groups),
        resource=question.resource,
        policy_snapshot_digest=question.snapshot_digest,
        facts_digest=question.facts_digest,
        policies=verdict.policies,
        message=message,
        time=now,
    )
    return Decision(
        name=f"{question.project}/decisions/{decision_id}",
        project=question.project,
        point=question.point,
        effect=effect,
        document=document.to_bytes(),
        digest=document.digest,
        snapshot_digest=question.snapshot_digest,
        message=message,
        create_time=now,
    )


def explain(effect: Effect, subject: str, reasons: tuple[str, ...]) -> str:
    """For people. A denial without a reason is the default: no policy permits it."""
    if effect is Effect.ALLOW:
        return f"{subject} may submit runs here: {', '.join(reasons)}"
    if reasons:
        return f"denied: {', '.join(reasons)}"[:4096]
    return f"{subject} needs the role editor in this project to submit runs"
