"""What a step says in numbers. Its files are hostile: opened without following links, bounded, checked."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path

from animus_agent.attempt.ports import Point
from animus_agent.errors import OutputRefused
from animus_agent.files import of_its_shape, opened

MAX_METRICS = 1000
MAX_BYTES = 1 << 20
MAX_POINTS = 1_000_000
MAX_LINE_BYTES = 4096
NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")


def read_metrics(folder: Path) -> dict[str, float]:
    """/animus/metrics.json: one flat object of finite numbers; {} when there is none. Raises OutputRefused."""
    data = _read(folder, "metrics.json", 0, MAX_BYTES + 1)
    if data is None:
        return {}
    if len(data) > MAX_BYTES:
        raise OutputRefused(f"metrics.json is larger than {MAX_BYTES} bytes", "METRICS_INVALID")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OutputRefused(f"metrics.json is not JSON: {error}", "METRICS_INVALID") from error
    if not isinstance(value, dict) or len(value) > MAX_METRICS:
        raise OutputRefused(f"metrics.json must be one object of at most {MAX_METRICS} numbers", "METRICS_INVALID")
    return {_name(name): _number(name, number) for name, number in value.items()}


def read_points(folder: Path, offset: int, count: int, *, final: bool = False) -> tuple[list[Point], int]:
    """New whole lines of /animus/metrics.jsonl and the offset after them. Raises OutputRefused."""
    data = _read(folder, "metrics.jsonl", offset, MAX_BYTES)
    if not data:
        return [], offset
    end = len(data) if final and len(data) < MAX_BYTES else data.rfind(b"\n") + 1
    if end == 0 and len(data) > MAX_LINE_BYTES:
        raise OutputRefused("a line of metrics.jsonl is too long", "METRICS_INVALID")
    points = [_point(line) for line in data[:end].split(b"\n") if line.strip()]
    if count + len(points) > MAX_POINTS:
        raise OutputRefused(f"metrics.jsonl has more than {MAX_POINTS} points", "METRICS_INVALID")
    return points, offset + end


def _point(line: bytes) -> Point:
    try:
        row = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or set(row) != {"name", "step", "value"}:
        raise OutputRefused("a line of metrics.jsonl is not {name, step, value}", "METRICS_INVALID")
    if type(row["step"]) is not int or not -(2**63) <= row["step"] < 2**63:
        raise OutputRefused("a step in metrics.jsonl is no 64-bit integer", "METRICS_INVALID")
    return Point(_name(row["name"]), row["step"], _number(row["name"], row["value"]))


def _name(name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise OutputRefused(f"a metric's name must match {NAME.pattern}", "METRICS_INVALID")
    return name


def _number(name: object, value: object) -> float:
    if type(value) not in (int, float):
        raise OutputRefused(f"metric {name!r} is no number", "METRICS_INVALID")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OutputRefused(f"metric {name!r} is not finite", "METRICS_INVALID")
    # RFC 8785 writes -0.0 as 0; the report and the signed statement must agree.
    return number or 0.0


def _read(folder: Path, name: str, offset: int, limit: int) -> bytes | None:
    try:
        # NONBLOCK: a FIFO must not hold us.
        with opened(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OutputRefused(f"{name} is not a regular file", "METRICS_INVALID")
            return os.pread(fd, limit, offset)
    except FileNotFoundError:
        return None
    except OSError as error:
        if not of_its_shape(error):
            raise
        raise OutputRefused(f"{name} cannot be read: {error.strerror or error}", "METRICS_INVALID") from error
