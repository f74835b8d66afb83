"""What a chaos run recorded: what was asked, what the services say, what the nodes did, what was left on the host.

Plain data, written to one JSON file, so that the checker can be run over it again without the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A run as it was submitted. name: projects/*/runs/*."""

    name: str
    shape: str
    cancel: bool


@dataclass(frozen=True)
class Attempt:
    """As the API tells it, without `STATE_`. log: pieces with the offset of their first byte. cut: the log is marked as
    having a gap or a missing end. end: Unix seconds."""

    name: str
    state: str
    agent: str
    end: float = 0.0
    failure_class: str = ""
    reason: str = ""
    message: str = ""
    log: Sequence[tuple[int, str]] = ()
    cut: bool = False

    @property
    def step(self) -> str:
        return self.name.rpartition("/attempts/")[0]

    @property
    def number(self) -> int:
        return int(self.name.rpartition("/")[2])


@dataclass(frozen=True)
class Step:
    """outputs: name → digest of the manifest."""

    name: str
    state: str
    current_attempt: int
    outputs: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def run(self) -> str:
        return self.name.rpartition("/steps/")[0]

    @property
    def id(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Run:
    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Event:
    """One entry of the audit log. time: Unix seconds. detail: what of the payload is checked."""

    index: int
    source: str
    seq: int
    type: str
    resource: str
    time: float
    detail: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """A container that a node's runc was asked to create, as its own record tells."""

    agent: str
    container: str


@dataclass(frozen=True)
class Fault:
    """since, until: Unix seconds. target: a process or a node."""

    kind: str
    target: str
    since: float
    until: float
    note: str = ""


@dataclass(frozen=True)
class Skew:
    """From when until when the services showed an agent as CLOCK_SKEW. Unix seconds. held: attempts that it ran then."""

    agent: str
    since: float
    until: float
    held: Sequence[str] = ()


@dataclass
class History:
    seed: int
    asked: list[Asked] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    # Last seq that the log holds of each source, and its whole size.
    sources: dict[str, int] = field(default_factory=dict)
    log_size: int = 0
    starts: list[Start] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    skews: list[Skew] = field(default_factory=list)
    # What was found on the host when everything had ended: one line each, empty when all is well.
    left: list[str] = field(default_factory=list)
    # What of the run itself went wrong, for example that it did not come to rest.
    troubles: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        found: dict[str, Any] = json.loads(path.read_text())
        kinds = {
            "asked": Asked, "runs": Run, "steps": Step, "attempts": Attempt, "events": Event, "starts": Start,
            "faults": Fault, "skews": Skew,
        }  # fmt: skip
        for name, kind in kinds.items():
            found[name] = [kind(**one) for one in found[name]]
        return cls(**found)
