"""Decisions: what was asked, under which snapshot, on which facts, and what came of it, as one document."""

import enum
from dataclasses import dataclass
from datetime import datetime


class Point(enum.Enum):
    SUBMIT = "submit"


class Effect(enum.Enum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """name: projects/{p}/decisions/{d}. document: canonical bytes, exactly as digested."""

    name: str
    project: str
    point: Point
    effect: Effect
    document: bytes
    digest: str
    snapshot_digest: str
    message: str
    create_time: datetime


def explain(effect: Effect, subject: str, reasons: tuple[str, ...]) -> str:
    """For people. A denial without a reason is the default: no policy permits it."""
    if effect is Effect.ALLOW:
        return f"{subject} may submit runs: {', '.join(reasons)}"
    if reasons:
        return f"denied: {', '.join(reasons)}"
    return f"{subject} needs the role editor in this project to submit runs"
