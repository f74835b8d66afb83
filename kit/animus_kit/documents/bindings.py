"""Bindings: what a run binds its pipeline's open names to. Full names only; `latest` is resolved by the client."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .errors import DocumentError
from .kinds import LABEL, LABEL_PATTERN, LABELS, each, record, text
from .shape import Document, Record, field
from .values import Parameter, Scalar

_DATASET_VERSION = text(300, f"projects/{LABEL_PATTERN}/datasets/{LABEL_PATTERN}/versions/{LABEL_PATTERN}")
_CODE_SNAPSHOT = text(200, f"projects/{LABEL_PATTERN}/codeSnapshots/{LABEL_PATTERN}")
_EXPERIMENT = text(200, f"projects/{LABEL_PATTERN}/experiments/{LABEL_PATTERN}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetBinding(Record):
    dataset_ref: str = field(LABEL)
    dataset_version: str = field(_DATASET_VERSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBinding(Record):
    """Without `step`: for every step that no other entry names."""

    step: str | None = field(LABEL, optional=True)
    code_snapshot: str = field(_CODE_SNAPSHOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings(Document):
    NOUN: ClassVar[str] = "bindings"

    datasets: tuple[DatasetBinding, ...] = field(each(record(DatasetBinding), key=lambda one: one.dataset_ref))
    code: tuple[CodeBinding, ...] = field(each(record(CodeBinding), key=lambda one: one.step or ""))
    parameters: tuple[Parameter, ...] = field(each(record(Parameter), key=lambda one: one.name))
    labels: Mapping[str, str] = field(LABELS)
    experiment: str | None = field(_EXPERIMENT, optional=True)

    def check_project(self, project: str) -> None:
        """Raises DocumentError OUTSIDE_PROJECT for the first name that belongs to another project."""
        for path, name in (
            *((f"datasets[{i}].datasetVersion", one.dataset_version) for i, one in enumerate(self.datasets)),
            *((f"code[{i}].codeSnapshot", one.code_snapshot) for i, one in enumerate(self.code)),
            ("experiment", self.experiment or ""),
        ):
            if name and not name.startswith(project + "/"):
                raise DocumentError("OUTSIDE_PROJECT", f"{name} is not in {project}", path)

    def dataset(self, ref: str) -> str | None:
        """Name of the dataset version bound to a datasetRef."""
        return next((one.dataset_version for one in self.datasets if one.dataset_ref == ref), None)

    def code_for(self, step: str) -> str | None:
        """Name of the code snapshot of a step: its own, or the default."""
        by_step = {one.step: one.code_snapshot for one in self.code}
        return by_step.get(step) or by_step.get(None)

    def values(self) -> dict[str, Scalar]:
        return {one.name: one.value for one in self.parameters}
