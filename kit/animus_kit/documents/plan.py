"""The plan: what a run will do, before anything of it has run. Its digest is what an approval binds to.

It holds no prediction, decision, time, label or run id: the same document, bindings and facts give the same bytes.
"""

from dataclasses import dataclass
from typing import ClassVar

from .action import Action
from .contract import NamedDigest, Resources
from .errors import DocumentError
from .kinds import DIGEST, FLAG, LABEL, NUMBER, RESOURCE, count, each, one_of, record
from .shape import Document, Record, field

MAX_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff(Record):
    type: str = field(one_of("fixed", "exponential"))
    initial_seconds: int = field(count(0))
    max_seconds: int = field(count(0))
    multiplier: float = field(NUMBER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Record):
    """`max_attempts` counts attempts that reached RUNNING."""

    max_attempts: int = field(count(1, 1000))
    backoff: Backoff = field(record(Backoff))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache(Record):
    """Whether a stored result of the same action may be used, and whether it must come from the same kind of host."""

    enabled: bool = field(FLAG)
    host: str = field(one_of("any", "same"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource(Record):
    """The dataset version behind an input."""

    name: str = field(LABEL)
    dataset_ref: str = field(LABEL)
    dataset_version: str = field(RESOURCE)
    manifest: str = field(DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSource(Record):
    """The output of an earlier step that becomes an input."""

    name: str = field(LABEL)
    step: str = field(LABEL)
    output: str = field(LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare(Record):
    """How two executions' outputs are compared: byte for byte, numbers within a tolerance, or not at all."""

    output: str = field(LABEL)
    method: str = field(one_of("bytes", "numeric", "ignore"))
    tolerance: float | None = field(NUMBER, optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(Record):
    """What must be granted before the named steps start; no step named means the whole run."""

    name: str = field(LABEL)
    type: str = field(one_of("approval"))
    before: tuple[str, ...] = field(each(LABEL, key=str))
    approvals: int = field(count(1, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan(Record):
    """One step. `recipe` is the action as far as it is known; `sources` say where its inputs come from."""

    name: str = field(LABEL)
    recipe: Action = field(record(Action))
    recipe_digest: str = field(DIGEST)
    dependencies: tuple[str, ...] = field(each(LABEL, key=str))
    dataset_sources: tuple[DatasetSource, ...] = field(each(record(DatasetSource), key=lambda one: one.name))
    artifact_sources: tuple[ArtifactSource, ...] = field(each(record(ArtifactSource), key=lambda one: one.name))
    code: NamedDigest | None = field(record(NamedDigest), optional=True)
    environment_lock: NamedDigest = field(record(NamedDigest))
    resources: Resources = field(record(Resources))
    retry: Retry = field(record(Retry))
    timeout_seconds: int = field(count(1, 30 * 86_400))
    cache: Cache = field(record(Cache))
    compare: tuple[Compare, ...] = field(each(record(Compare), key=lambda one: one.output))

    def check(self) -> None:
        if self.recipe.digest != self.recipe_digest:
            raise DocumentError("RECIPE_DIGEST", "is not the recipe's", "recipeDigest")
        inputs = {one.name for one in self.dataset_sources} | {one.name for one in self.artifact_sources}
        if inputs != {one.name for one in self.recipe.inputs}:
            raise DocumentError("INPUTS", "the sources do not name the recipe's inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Document):
    """Steps in the order of execution, ties by name as UTF-8 bytes."""

    NOUN: ClassVar[str] = "plan"

    steps: tuple[StepPlan, ...] = field(each(record(StepPlan), maximum=MAX_STEPS, least=1))
    gates: tuple[Gate, ...] = field(each(record(Gate), key=lambda gate: gate.name))
    policy_snapshot_digest: str = field(DIGEST)

    def check(self) -> None:
        seen: set[str] = set()
        for index, step in enumerate(self.steps):
            if not seen.issuperset(step.dependencies):
                raise DocumentError("STEP_ORDER", "stands before a step that it depends on", f"steps[{index}]")
            if step.name in seen:
                raise DocumentError("DUPLICATE", "the name stands before", f"steps[{index}].name")
            seen.add(step.name)

    def step(self, name: str) -> StepPlan:
        """Raises KeyError."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)
