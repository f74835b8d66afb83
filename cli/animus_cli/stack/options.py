"""What somebody chose for a stack, remembered in its folder: every later start and restart uses the same.

node_address is where agents on other machines, or in other network namespaces, find dispatch, enrolment and blobs. All
other listeners stay on loopback. settings are single settings of single processes over the stack's own, for example
{"dispatch": {"lease_duration": "10s"}}; their names stand in each process's README.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"


class OptionsError(ValueError):
    """A setting that cannot be understood."""


@dataclass(frozen=True)
class Options:
    """The default is a stack for this machine alone."""

    node_address: str = LOOPBACK
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def environment(self, process: str) -> dict[str, str]:
        """What a process reads beside what the stack gives it."""
        return {f"ANIMUS_{name.upper()}": value for name, value in self.settings.get(process, {}).items()}


def parse(node_address: str, settings: Iterable[str], processes: Iterable[str]) -> Options:
    """settings: `process.name=value`. Raises OptionsError."""
    known = set(processes)
    chosen: dict[str, dict[str, str]] = {}
    for text in settings:
        where, equals, value = text.partition("=")
        process, dot, name = where.partition(".")
        if not (equals and dot and name):
            raise OptionsError(f"{text}: write process.setting=value")
        if process not in known:
            raise OptionsError(f"{text}: no such process; there are {', '.join(sorted(known))}")
        chosen.setdefault(process, {})[name] = value
    return Options(node_address, chosen)


def load(path: Path) -> Options:
    """What was chosen; the default where nothing was."""
    if not path.exists():
        return Options()
    return Options(**json.loads(path.read_text()))


def save(path: Path, options: Options) -> None:
    write_whole(path, json.dumps(asdict(options), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Whoever reads it, after a kill too, finds what was there before or all of this."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
