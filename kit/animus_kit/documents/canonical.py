"""Canonical JSON: RFC 8785 (JCS) and the rules of ours that make it unambiguous for people with other parsers.

Beyond RFC 8785: no null (an absent field is absent), every document is an object with a `type`, at most 64 levels deep.
A JSON number is never an integer beyond ±(2^53 - 1): larger ones, and every integer that is 64 bits wide by its type,
are decimal strings. Times are RFC 3339 in UTC with microseconds, bytes lower-case hex. Strings are compared and
hashed as they are: nothing normalises Unicode.
"""

import json
import math
import re
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import Any

import rfc8785

from .errors import DocumentError

MAX_DEPTH = 64
MAX_SAFE_INTEGER = 2**53 - 1
TYPE_RE = re.compile(r"animus\.dev/([a-z]+(?:-[a-z]+)*)/v([1-9][0-9]*)")

_INT64 = re.compile(r"0|-?[1-9][0-9]{0,18}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)


def type_of(noun: str) -> str:
    """The `type` of version 1 of a noun: `animus.dev/<noun>/v1`."""
    return f"animus.dev/{noun}/v1"


def dumps(value: Any) -> bytes:
    """The RFC 8785 bytes of plain data: dict, list, tuple, str, int, float, bool.

    Raises DocumentError with NULL, NUMBER_NOT_FINITE, INTEGER_TOO_LARGE, STRING_NOT_UNICODE, KEY_NOT_STRING,
    TOO_DEEP or NOT_JSON.
    """
    if _check(value, "", 0):
        return _PLAIN.encode(value).encode()
    return write(value).encode()


def loads(data: bytes, expect_type: str | None = None) -> dict[str, Any]:
    """Reads one document and refuses every byte string but its canonical one.

    With `expect_type` its `type` must be that; without, it must look like one of ours. An integer literal beyond
    ±(2^53 - 1) comes back as the float it stands for, since that is how RFC 8785 writes large floats.

    Raises DocumentError, besides those of `dumps`, with NOT_UTF8, NOT_JSON, DUPLICATE_KEY, NOT_CANONICAL, WRONG_TYPE.
    """
    value = parse(data)
    if type(value) is not dict:
        raise DocumentError("WRONG_TYPE", "a document is a JSON object")
    kind = value.get("type")
    if expect_type is not None:
        if kind != expect_type:
            raise DocumentError("WRONG_TYPE", f"expected {expect_type}", "type")
    elif type(kind) is not str or not TYPE_RE.fullmatch(kind):
        raise DocumentError("WRONG_TYPE", "a document's type is animus.dev/<noun>/v<number>", "type")
    return value


def parse(data: bytes) -> Any:
    """As `loads`, for any canonical JSON value: no `type` is asked for."""
    value = decode(data)
    if dumps(value) != data:
        raise DocumentError("NOT_CANONICAL", "the bytes are not the RFC 8785 form of what they say")
    return value


def decode(data: bytes) -> Any:
    """Reads JSON and refuses what is none or ambiguous, but not yet another layout: for who compares bytes later."""
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError("NOT_UTF8", f"byte {error.start} is not UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except RecursionError:
        raise DocumentError("TOO_DEEP", f"more than {MAX_DEPTH} levels") from None
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError("NOT_JSON", str(error)) from None


def int64(text: str) -> int:
    """Reads a 64-bit integer from its one decimal form. Raises ValueError."""
    if type(text) is not str or not _INT64.fullmatch(text) or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError("not the decimal form of a 64-bit integer")
    return value


def format_time(value: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC with microseconds. Raises ValueError when it is naive."""
    if value.tzinfo is None:
        raise ValueError("a time without a zone")
    return value.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def parse_time(text: str) -> datetime:
    """Reads what `format_time` writes and nothing else. Raises ValueError."""
    if type(text) is not str or not _TIME.fullmatch(text):
        raise ValueError("not RFC 3339 in UTC with microseconds")
    return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)


# The standard library's encoder, in C, writes RFC 8785 for values with none but plain floats whose keys are ASCII: its
# escapes are the same, and code points and UTF-16 sort alike there. Nearly every document is such, and it is ten times as fast;
# tests/kit/documents/test_canonical.py holds that both agree.
_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


text = encode_basestring
"""The RFC 8785 form of a string, quotes included; its lone surrogates only encoding finds."""


def number(value: float) -> str:
    """The RFC 8785 form of a finite float."""
    written = repr(value)
    if "e" in written:
        return rfc8785.dumps(value).decode()
    if written.endswith(".0"):
        return written[:-2] if value else "0"
    return written


def write(value: Any) -> str:
    """The RFC 8785 form of a value that was checked: `dumps` without its walk. Keys that are not ASCII sort by their
    UTF-16 code units."""
    kind = type(value)
    if kind is str:
        return text(value)
    if kind is float:
        return number(value)
    if kind is dict:
        names = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_utf16)
        return "{" + ",".join(f"{text(name)}:{write(value[name])}" for name in names) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join(map(write, value)) + "]"
    return ("true" if value else "false") if kind is bool else str(value)


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _check(value: Any, path: str, depth: int) -> bool:
    """Walks once before the encoder does, to say where and why; rfc8785 alone would take a null. True for a value that
    _PLAIN may write."""
    plain = True
    if depth > MAX_DEPTH:
        raise DocumentError("TOO_DEEP", f"more than {MAX_DEPTH} levels")
    kind = type(value)
    if kind is str:
        _check_text(value, path)
    elif kind is bool:
        pass
    elif kind is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise DocumentError("INTEGER_TOO_LARGE", "integers beyond 2^53 - 1 are decimal strings", path)
    elif kind is float:
        if not math.isfinite(value):
            raise DocumentError("NUMBER_NOT_FINITE", "NaN and infinities are no JSON", path)
        # Both write the shortest digits that read back; they differ in exponents and in the form of whole numbers.
        plain = "e" not in (text := repr(value)) and not text.endswith(".0")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise DocumentError("KEY_NOT_STRING", f"a key is {type(key).__name__}", path)
            if not key.isascii():
                _check_text(key, path)
                plain = False
            if type(item) is not str or not item.isascii():
                plain = _check(item, f"{path}.{key}" if path else key, depth + 1) and plain
    elif kind is list or kind is tuple:
        for index, item in enumerate(value):
            if type(item) is not str or not item.isascii():
                plain = _check(item, f"{path}[{index}]", depth + 1) and plain
    elif value is None:
        raise DocumentError("NULL", "an absent field is absent, never null", path)
    else:
        raise DocumentError("NOT_JSON", f"{kind.__name__} is no JSON value", path)
    return plain


def _check_text(text: str, path: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DocumentError("STRING_NOT_UNICODE", "a lone surrogate is no Unicode text", path) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise DocumentError("DUPLICATE_KEY", f"the key {double!r} stands twice")
    return result


def _integer(literal: str) -> int | float:
    if len(literal) <= 16 and -MAX_SAFE_INTEGER <= (value := int(literal)) <= MAX_SAFE_INTEGER:
        return value
    return float(literal)


def _constant(literal: str) -> Any:
    raise DocumentError("NUMBER_NOT_FINITE", f"{literal} is no JSON")
