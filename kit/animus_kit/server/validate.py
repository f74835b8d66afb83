"""Rules of single fields stand in the protos (buf.validate); this module applies them."""

from __future__ import annotations

from typing import Any

import protovalidate

from animus_kit.errors import FieldViolation, InvalidArgument
from animus_kit.names import ID_PATTERN

_AN_ID = "an id is 1 to 63 lower-case letters, digits and '-', and begins and ends with a letter or digit"
# What a pattern asks for, in words; a pattern that is not here speaks for itself.
_PATTERNS = {
    rf"^{ID_PATTERN}$": _AN_ID,
    "^sha256:[0-9a-f]{64}$": "must be 'sha256:' and 64 lower-case hexadecimal digits",
    r"^[^\x00-\x1f\x7f]*$": "must have no control characters",
    r"^[^\x00-\x08\x0b-\x1f\x7f]*$": "must have no control characters but tabs and line ends",
    r"^[a-z0-9][-a-z0-9_./]{0,62}=.{0,256}$": "must be a label as key=value",
    r"^[a-z0-9](?:[-a-z0-9_./]{0,61}[a-z0-9])?$": "must be 1 to 63 of lower-case letters, digits and '-_./', and begin"
    " and end with a letter or digit",
}


class RequestInvalid(InvalidArgument):
    """A field breaks its rule. The violations name each field, the rule and what it asks for."""

    reason = "REQUEST_INVALID"


class RequestMalformed(InvalidArgument):
    """The bytes are not the message: damaged, or text that is not UTF-8."""

    reason = "REQUEST_MALFORMED"


def validate(message: Any) -> None:
    """Raises RequestInvalid with every violation. protovalidate 2.x works on google.protobuf messages in place."""
    found = protovalidate.collect_violations(message)
    if found:
        violations = [_violation(one) for one in found]
        first = violations[0]
        raise RequestInvalid(f"{first.field or 'request'}: {first.description}", violations=violations)


def _violation(found: Any) -> FieldViolation:
    violation = found.proto
    # Message-level rules have no field.
    field = _path(violation.field) if violation.field is not None else ""
    reason = violation.rule_id.upper().replace(".", "_").replace("-", "_")
    told = violation.message or violation.rule_id
    if violation.rule_id == "string.pattern":
        told = _in_words(str(found.rule_value)) or told
    return FieldViolation(field, reason, told)


def _in_words(pattern: str) -> str:
    """What a pattern asks for; empty where only the pattern says it."""
    if known := _PATTERNS.get(pattern):
        return known
    form = pattern.removeprefix("^").removesuffix("$").replace(ID_PATTERN, "{id}")
    plain = form.replace("{id}", "").replace("/", "").isalpha()
    return f"must look like {form}; {_AN_ID}" if plain and "{id}" in form else ""


def _path(path: Any) -> str:
    parts: list[str] = []
    for element in path.elements:
        text = element.field_name
        subscript = element.subscript
        if subscript is not None:
            text += f"[{subscript.value}]"
        parts.append(text)
    return ".".join(parts)
