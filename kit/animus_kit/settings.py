"""Settings: one frozen dataclass a process, filled from the environment.

A field `listen` is read from `ANIMUS_LISTEN`. All that is wrong is told at once, by name. A name that starts with the
process's own prefix (`ANIMUS_CATALOG_` for a class in `animus_catalog`) and belongs to no field is refused, as a
misspelt limit must not silently be the default.

Secrets come as paths of files, never as values: an environment is readable in /proc and lands in crash reports.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class Duration(float):
    """Seconds. Written with a unit: `500ms`, `30s`, `5m`, `24h`, `7d`."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises ValueError."""
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError("must be a number with a unit (ms, s, m, h, d), for example 30s")
        return cls(float(match[1]) * _UNITS[match[2]])


class SettingsError(Exception):
    """All that is wrong with a process's settings. One line for each name."""

    def __init__(self, problems: list[str]):
        super().__init__("settings are not usable:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


def load(cls: type[T], environ: Mapping[str, str]) -> T:
    """Fills the dataclass `cls`. Field types: str, int, float, bool, Path, Duration, tuple[str, ...] (separated by
    commas), and any of them `| None`. Raises SettingsError.

    An empty value counts as absent, since templates of unit files and pods produce those. A class may check itself in
    `__post_init__` by raising ValueError.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    problems: list[str] = []
    known: set[str] = set()
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = env_name(field.name)
        known.add(name)
        text = environ.get(name, "")
        if text == "":
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                problems.append(f"{name}: must be set")
            continue
        try:
            values[field.name] = _read(hints[field.name], text)
        except ValueError as e:
            problems.append(f"{name}: {e}")
    prefix = own_prefix(cls)
    for name in sorted(environ):
        if prefix and name.startswith(prefix) and name not in known:
            problems.append(f"{name}: no such setting")
    if problems:
        raise SettingsError(problems)
    try:
        return cls(**values)
    except ValueError as e:
        raise SettingsError([str(e)]) from e


def env_name(field: str) -> str:
    return "ANIMUS_" + field.upper()


def own_prefix(cls: type) -> str | None:
    """`ANIMUS_CATALOG_` for a class in the package `animus_catalog`; None outside of our packages."""
    package = cls.__module__.partition(".")[0]
    service = package.removeprefix("animus_")
    return f"ANIMUS_{service.upper()}_" if service != package else None


def _read(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_read(inner, part.strip()) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError("must be true or false")
    if hint is Duration:
        return Duration.parse(text)
    if hint is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if hint is int:
        if re.fullmatch(r"-?\d+", text) is None:
            raise ValueError("must be a whole number")
        return int(text)
    if hint is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError("must be a number") from None
    if hint is Path:
        return Path(text)
    if hint is str:
        return text
    raise TypeError(f"a setting cannot be of type {hint!r}")
