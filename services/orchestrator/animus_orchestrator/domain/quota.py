"""What a project may hold, what it holds, and what it is weighed by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from animus_orchestrator.domain.scheduler import Need

MAX_WEIGHT = 1000
PRIORITY_BOUND = 100
"""Priorities lie between its negative and itself; 0 is normal."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Of what nodes have and steps take."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    def __add__(self, other: Amount | Need) -> Amount:
        return Amount(
            self.cpu_millis + other.cpu_millis, self.memory_bytes + other.memory_bytes, self.gpus + other.gpus
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit; 0 allows nothing."""

    cpu_millis: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    active_runs: int | None = None
    stored_bytes: int | None = None

    @property
    def bounds_leases(self) -> bool:
        """Whether a lease can meet one of them."""
        return (self.cpu_millis, self.memory_bytes, self.gpus) != (None, None, None)


LIMITS = tuple(one.name for one in fields(Limits))
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Standing:
    """A project among others, as it is when leases are made."""

    weight: int = 1
    used: Amount = Amount()
    limits: Limits = NO_LIMITS


class Over(NamedTuple):
    """A limit that a step would exceed. `limit` is the field's name."""

    limit: str
    allowed: int
    used: int
    wanted: int

    def __str__(self) -> str:
        return f"{self.limit}: {self.used} of {self.allowed} in use, {self.wanted} are asked for"


_UNITS = ("cpu_millis", "memory_bytes", "gpus")


def exceeded(limits: Limits, used: Amount, need: Need) -> Over | None:
    """The first limit that the step would exceed now."""
    for name in _UNITS:
        allowed, wanted = getattr(limits, name), getattr(need, name)
        if allowed is not None and wanted and getattr(used, name) + wanted > allowed:
            return Over(name, allowed, getattr(used, name), wanted)
    return None


def never_allowed(limits: Limits, need: Need) -> list[Over]:
    """Limits that the step alone exceeds: no waiting helps."""
    found = []
    for name in _UNITS:
        allowed, wanted = getattr(limits, name), getattr(need, name)
        if allowed is not None and wanted > allowed:
            found.append(Over(name, allowed, 0, wanted))
    return found


def shares(used: Amount, total: Amount) -> Sequence[float]:
    """Of each unit that there is, the part that is used."""
    return [getattr(used, name) / getattr(total, name) for name in _UNITS if getattr(total, name) > 0]
