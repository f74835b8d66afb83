"""Rules of single fields stand in the protos (buf.validate); this module applies them."""

from __future__ import annotations

from typing import Any

import protovalidate

from animus_kit.errors import FieldViolation, InvalidArgument


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
        violations = [_violation(violation.proto) for violation in found]
        first = violations[0]
        raise RequestInvalid(f"{first.field or 'request'}: {first.description}", violations=violations)


def _violation(violation: Any) -> FieldViolation:
    # Message-level rules have no field.
    field = _path(violation.field) if violation.field is not None else ""
    reason = violation.rule_id.upper().replace(".", "_").replace("-", "_")
    return FieldViolation(field, reason, violation.message or violation.rule_id)


def _path(path: Any) -> str:
    parts: list[str] = []
    for element in path.elements:
        text = element.field_name
        subscript = element.subscript
        if subscript is not None:
            text += f"[{subscript.value}]"
        parts.append(text)
    return ".".join(parts)
