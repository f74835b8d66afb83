"""The tree that both readers make: JSON values with their places."""

from dataclasses import dataclass, field
from typing import Any

from .problem import Problem, UnreadableDocument

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""A thousand steps have a third of them. A megabyte of empty lists would have ten times as many, and take as long to read."""
MAX_SAFE_INTEGER = 2**53 - 1

OBJECT = "object"
ARRAY = "array"
STRING = "string"
INTEGER = "integer"
NUMBER = "number"
BOOLEAN = "boolean"
INVALID = "invalid"
"""A value that was refused already; nothing more is said of it."""


@dataclass(slots=True)
class Node:
    """`value` is a str, int, float or bool; of an object `members` as (key, place of the key, value); of an array `items`."""

    kind: str
    line: int
    column: int
    value: Any = None
    members: list[tuple[str, tuple[int, int], "Node"]] = field(default_factory=list)
    items: list["Node"] = field(default_factory=list)

    def plain(self) -> Any:
        """The value as plain data."""
        if self.kind == OBJECT:
            return {key: item.plain() for key, _, item in self.members}
        if self.kind == ARRAY:
            return [item.plain() for item in self.items]
        return self.value


class Problems(list[Problem]):
    """The problems of one document, with two verbs, and how many values were read of it."""

    values = 0

    def read_one(self, place: tuple[int, int], path: str) -> None:
        """To be called for each value. Raises UnreadableDocument beyond MAX_VALUES."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.stop(place, path, "TOO_MANY_VALUES", f"more than {MAX_VALUES} values")

    def add(self, place: tuple[int, int], path: str, reason: str, message: str) -> None:
        self.append(Problem(*place, path, reason, message))

    def stop(self, place: tuple[int, int], path: str, reason: str, message: str) -> UnreadableDocument:
        """For what cannot be read on: `raise problems.stop(…)`."""
        self.add(place, path, reason, message)
        return UnreadableDocument(message)


def join(parent: str, key: str | int) -> str:
    """The path of a member: `spec.steps[1].image`. Keys that are no plain words are quoted."""
    if isinstance(key, int):
        return f"{parent}[{key}]"
    if not key.replace("_", "a").replace("-", "a").isalnum() or not key.isascii():
        return f'{parent}["{key[:64].encode("unicode_escape").decode()}"]'
    return f"{parent}.{key}" if parent else key


def check_number(problems: Problems, place: tuple[int, int], path: str, literal: str) -> Node:
    """The node of a JSON number literal. Integers beyond ±(2^53 - 1) and overflowing floats are refused."""
    integral = not any(c in literal for c in ".eE")
    if integral:
        if len(literal) > 17 or abs(value := int(literal)) > MAX_SAFE_INTEGER:
            problems.add(
                place, path, "INTEGER_TOO_LARGE", "integers beyond 2^53 - 1 do not survive JSON; write a string"
            )
            return Node(INVALID, *place)
        return Node(INTEGER, *place, value)
    number = float(literal)
    if number in (float("inf"), float("-inf")):
        problems.add(place, path, "NUMBER_NOT_FINITE", "is too large for a number")
        return Node(INVALID, *place)
    return Node(NUMBER, *place, number)
