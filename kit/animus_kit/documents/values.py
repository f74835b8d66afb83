"""Typed scalars: what a parameter may hold.

In Python a plain str, int, float or bool, told apart by its exact type; on the wire `{"string": …}`, `{"int64": "5"}`,
`{"double": 0.5}` or `{"bool": true}`, so that neither 2^53 + 1 nor the difference of 1 and 1.0 is lost.
"""

import math
from dataclasses import dataclass
from typing import Any

import rfc8785

from . import canonical
from .errors import DocumentError
from .kinds import text
from .shape import Kind, Record, field

MAX_STRING_BYTES = 65536
TYPES = ("string", "int64", "double", "bool")
PARAMETER_NAME = text(63, r"[A-Za-z_][A-Za-z0-9_]{0,62}")

Scalar = str | int | float | bool


def type_name(value: Scalar) -> str:
    """`string`, `int64`, `double` or `bool`. Raises DocumentError."""
    names = {str: "string", int: "int64", float: "double", bool: "bool"}
    try:
        return names[type(value)]
    except KeyError:
        raise DocumentError("VALUE_TYPE", f"{type(value).__name__} is no parameter value") from None


def check(value: Any) -> Scalar:
    """Checks range, length and finiteness; -0.0 becomes 0.0, since RFC 8785 writes both as 0."""
    kind = type_name(value)
    if kind == "string":
        if "\0" in value:
            raise DocumentError("CONTROL_CHARACTER", "holds a NUL")
        if len(value.encode("utf-8", "surrogatepass")) > MAX_STRING_BYTES:
            raise DocumentError("TOO_LONG", f"longer than {MAX_STRING_BYTES} bytes")
    elif kind == "int64" and not -(2**63) <= value < 2**63:
        raise DocumentError("OUT_OF_RANGE", "not a 64-bit integer")
    elif kind == "double":
        if not math.isfinite(value):
            raise DocumentError("NUMBER_NOT_FINITE", "NaN and infinities are refused")
        return value if value else 0.0
    return value


def to_json(value: Scalar) -> dict[str, Any]:
    kind = type_name(value)
    return {kind: str(value) if kind == "int64" else value}


def from_json(value: Any) -> Scalar:
    if type(value) is not dict or len(value) != 1:
        raise DocumentError("VALUE_TYPE", f"a value is an object with one of {', '.join(TYPES)}")
    ((kind, inner),) = value.items()
    if kind == "int64":
        try:
            return canonical.int64(inner)
        except ValueError as error:
            raise DocumentError("VALUE_TYPE", str(error), kind) from None
    if kind == "double" and type(inner) in (int, float):
        return float(inner)
    if kind == "string" and type(inner) is str or kind == "bool" and type(inner) is bool:
        return inner
    raise DocumentError("VALUE_TYPE", "the value is not of the type named", str(kind))


def render(value: Scalar) -> str:
    """The text that stands for a value in an argument or an environment variable.

    Strings as they are, integers in decimal, `true` and `false`, floats in the shortest form that reads back the same
    (ECMAScript's, as in RFC 8785 §3.2.2.3).
    """
    value = check(value)
    if type(value) is bool:
        return "true" if value else "false"
    return rfc8785.dumps(value).decode() if type(value) is float else str(value)


VALUE = Kind(check, to_json, from_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(Record):
    """A named value."""

    name: str = field(PARAMETER_NAME)
    value: Scalar = field(VALUE)
