"""The vocabulary in which a document format is written down once: checked here, and written out as JSON Schema.

A check never stops at the first fault. It returns the plain value with what was refused left out, so that the rules
between fields can still speak of the rest. `INVALID` stands for a value of which nothing is left.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .node import ARRAY, BOOLEAN, INTEGER, NUMBER, OBJECT, STRING, Node, Problems, join
from .node import INVALID as INVALID_NODE

INVALID = object()
Places = dict[str, tuple[int, int]]

_CALLED = {
    OBJECT: "an object",
    ARRAY: "a list",
    STRING: "a string",
    INTEGER: "an integer",
    NUMBER: "a number",
    BOOLEAN: "a boolean",
}


@dataclass(slots=True)
class Context:
    """What a check writes to: problems, and the place of every path for those who speak later."""

    problems: Problems
    places: Places

    def refuse(self, node: Node, path: str, reason: str, message: str) -> Any:
        self.problems.add((node.line, node.column), path, reason, message)
        return INVALID

    def wrong_type(self, node: Node, path: str, expected: str) -> Any:
        if node.kind == INVALID_NODE:
            return INVALID  # refused by the reader
        return self.refuse(node, path, "WRONG_TYPE", f"expected {expected}, not {_CALLED[node.kind]}")


class Type(Protocol):
    def check(self, node: Node, path: str, context: Context) -> Any: ...

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """`pattern` is told as `reason`; both Python and ECMAScript must read it alike. `parse` may refuse with ValueError
    what a pattern cannot tell; the value stays the text."""

    pattern: str | None = None
    reason: str = "PATTERN"
    hint: str = ""
    max_bytes: int = 4096
    empty: bool = False
    control: bool = False
    parse: Callable[[str], Any] | None = None

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != STRING:
            return context.wrong_type(node, path, "a string")
        text = node.value
        if not text and not self.empty:
            return context.refuse(node, path, "EMPTY", "must not be empty")
        if len(text.encode()) > self.max_bytes:
            return context.refuse(node, path, "TOO_LONG", f"longer than {self.max_bytes} bytes")
        if "\0" in text or not self.control and any(c < " " and c not in "\t\n" or c == "\x7f" for c in text):
            return context.refuse(node, path, "CONTROL_CHARACTER", "holds a control character")
        if self.pattern and not re.fullmatch(self.pattern, text, re.ASCII):
            return context.refuse(node, path, self.reason, self.hint or f"does not match {self.pattern}")
        if self.parse:
            try:
                self.parse(text)
            except ValueError as error:
                return context.refuse(node, path, "OUT_OF_RANGE", str(error))
        return text

    def schema(self) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "string", "maxLength": self.max_bytes}
        if not self.empty:
            result["minLength"] = 1
        if self.pattern:
            result["pattern"] = f"^(?:{self.pattern})$"
        return result


@dataclass(frozen=True, slots=True)
class Choice:
    choices: tuple[str, ...]
    reason: str = "NOT_A_CHOICE"

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != STRING:
            return context.wrong_type(node, path, "a string")
        if node.value not in self.choices:
            return context.refuse(node, path, self.reason, f"must be one of {', '.join(self.choices)}")
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.choices)}


@dataclass(frozen=True, slots=True)
class Integer:
    minimum: int
    maximum: int = 2**31 - 1

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != INTEGER:
            return context.wrong_type(node, path, "an integer")
        if not self.minimum <= node.value <= self.maximum:
            return context.refuse(node, path, "OUT_OF_RANGE", f"must lie between {self.minimum} and {self.maximum}")
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Number:
    minimum: float
    maximum: float = 1e9

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind not in (INTEGER, NUMBER):
            return context.wrong_type(node, path, "a number")
        if not self.minimum <= node.value <= self.maximum:
            return context.refuse(node, path, "OUT_OF_RANGE", f"must lie between {self.minimum:g} and {self.maximum:g}")
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Boolean:
    def check(self, node: Node, path: str, context: Context) -> Any:
        return node.value if node.kind == BOOLEAN else context.wrong_type(node, path, "true or false")

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """Any scalar; its type is a matter of the rules."""

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind in (STRING, INTEGER, NUMBER, BOOLEAN):
            return node.value
        return context.wrong_type(node, path, "a string, number or boolean")

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class List:
    """A list keeps an INVALID entry in its place, so that indices stay those of the text."""

    item: Type
    maximum: int = 1000
    least: int = 0

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != ARRAY:
            return context.wrong_type(node, path, "a list")
        if len(node.items) < self.least:
            return context.refuse(node, path, "LIST_EMPTY", "must not be empty")
        if len(node.items) > self.maximum:
            return context.refuse(node, path, "LIST_TOO_LONG", f"more than {self.maximum} entries")
        result = []
        for index, item in enumerate(node.items):
            where = join(path, index)
            context.places[where] = (item.line, item.column)
            result.append(self.item.check(item, where, context))
        return result

    def schema(self) -> dict[str, Any]:
        result = {"type": "array", "items": self.item.schema(), "maxItems": self.maximum}
        return result | {"minItems": self.least} if self.least else result


@dataclass(frozen=True, slots=True)
class Map:
    """Free keys, text values."""

    key: str
    value: Text
    maximum: int = 64

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != OBJECT:
            return context.wrong_type(node, path, "an object")
        if len(node.members) > self.maximum:
            return context.refuse(node, path, "LIST_TOO_LONG", f"more than {self.maximum} entries")
        result = {}
        for key, place, item in node.members:
            where = join(path, key)
            if not re.fullmatch(self.key, key, re.ASCII):
                context.problems.add(place, where, "NAME_INVALID", f"a key matches {self.key}")
                continue
            value = self.value.check(item, where, context)
            if value is not INVALID:
                result[key] = value
        return result

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key})$"},
            "additionalProperties": self.value.schema(),
            "maxProperties": self.maximum,
        }


@dataclass(frozen=True, slots=True)
class Object:
    """Known fields only. Those in `optional` may be absent; no field has a hidden meaning when it is."""

    fields: Mapping[str, Type]
    optional: frozenset[str] = field(default_factory=frozenset)

    def check(self, node: Node, path: str, context: Context) -> Any:
        if node.kind != OBJECT:
            return context.wrong_type(node, path, "an object")
        result = {}
        present = set()
        for key, place, item in node.members:
            where = join(path, key)
            present.add(key)
            if key not in self.fields:
                known = ", ".join(sorted(self.fields))
                context.problems.add(place, where, "FIELD_UNKNOWN", f"no such field; there are {known}")
                continue
            context.places[where] = (item.line, item.column)
            value = self.fields[key].check(item, where, context)
            if value is not INVALID:
                result[key] = value
        for key in self.fields:
            if key not in present and key not in self.optional:
                empty = "; an empty list is written as []" if isinstance(self.fields[key], List) else ""
                context.refuse(node, join(path, key), "FIELD_REQUIRED", f"is required{empty}")
        return result

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {key: value.schema() for key, value in self.fields.items()},
            "required": [key for key in self.fields if key not in self.optional],
            "additionalProperties": False,
        }


def extend(base: Object, *, required: Mapping[str, Type] = {}, optional: Mapping[str, Type] = {}) -> Object:
    """A format with more fields, or with other types for the same ones."""
    fields = {**base.fields, **required, **optional}
    return Object(fields, (base.optional - required.keys()) | optional.keys())
