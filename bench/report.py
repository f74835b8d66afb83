"""One measurement as a line: the raw floor of this machine beside the product, from the same run."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Line:
    """`ratio` is product / floor. `budget` is in words; `met` says whether it holds, None where nothing is promised."""

    what: str
    unit: str
    floor: float | None
    product: float
    floor_is: str
    budget: str = ""
    met: bool | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.product / self.floor if self.floor else None


def emit(bench: str, line: Line) -> None:
    """One JSON line on standard output."""
    fields = {
        "bench": bench,
        "what": line.what,
        "unit": line.unit,
        "floor": None if line.floor is None else rounded(line.floor),
        "product": rounded(line.product),
        "ratio": None if line.ratio is None else rounded(line.ratio),
        "floor_is": line.floor_is,
        "budget": line.budget,
        "met": line.met,
        **({"detail": line.detail} if line.detail else {}),
    }
    print(json.dumps(fields), flush=True)


def tell(text: str) -> None:
    """Progress, apart from the results."""
    print(f"  {text}", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def rounded(value: float) -> float:
    """Three digits are more than one run can tell apart."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return round(value, digits) if digits else float(round(value))
