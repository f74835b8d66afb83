"""What a manifest or an image holds, as rows: the shape in which content is paged, compared and granted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The names are those of a manifest document's entries."""

    FILE = "file"
    EXECUTABLE = "executable"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path. `digest` is "sha256:<hex>", empty for a symlink; `target` is empty for all else."""

    path: str
    kind: Kind
    size: int
    digest: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """The checked content of one manifest or image of a project. `digest` is that of the manifest itself."""

    digest: str
    file_count: int
    size: int
    """Bytes of all files together."""
    read: Callable[[], Iterable[Entry]]
    """Reads the entries again. There may be a million of them, so they are not held."""


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs between two manifests; `before` or `after` is absent where the path is."""

    path: str
    before: Entry | None
    after: Entry | None
