"""What the command prints: tables for people, JSON for programs, errors that say what to do.

Text of others is data: no markup, and no escape sequences on a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without what a terminal would obey: escape sequences, control characters, changes of direction."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text))


def to_json(value: Any) -> Any:
    """Protobuf messages as their JSON, everything else as it is."""
    if hasattr(value, "DESCRIPTOR"):
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(value, always_print_fields_with_no_presence=True)
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def as_json(value: Any) -> None:
    print(json.dumps(to_json(value), indent=2, ensure_ascii=False, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Columns that start with ">" are numbers. Without rows it says so on stderr."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    if not rows:
        print("nothing found", file=sys.stderr)
        return
    made = Table(box=None, pad_edge=False, title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        number = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(clean(str(cell))) for cell in row))
    console().print(made)


def pairs(rows: Iterable[tuple[str, Any]]) -> None:
    """Name and value, one a line; what is empty is left out."""
    shown = [(name, clean(str(value))) for name, value in rows if value not in ("", None, 0, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}")


def console(stderr: bool = False) -> Any:
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    # Piped output is not folded to a terminal's width.
    return Console(stderr=stderr, width=None if file.isatty() else 240, highlight=False, markup=False)


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def short(digest: str) -> str:
    """`sha256:` and 12 digits."""
    return digest[:19]


def moment(stamp: Any) -> str:
    """A protobuf Timestamp, in the local zone; empty when it is not set."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds(start: Any, end: Any) -> str:
    if not start.seconds or not end.seconds:
        return ""
    return f"{(end.ToNanoseconds() - start.ToNanoseconds()) / 1e9:.2f}s"


def state(message: Any, field: str = "state") -> str:
    """`SUCCEEDED` of an enum field whose value is STATE_SUCCEEDED."""
    value = getattr(message, field)
    found = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(value)
    return found.name.rpartition("STATE_")[2] if found else str(value)
