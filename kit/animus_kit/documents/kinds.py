"""The kinds of fields that documents have (see shape.py)."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from . import canonical
from .errors import DocumentError
from .shape import Kind, Record, called

DIGEST_PATTERN = r"sha256:[0-9a-f]{64}"
LABEL_PATTERN = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def text(max_bytes: int = 4096, pattern: str | None = None, *, empty: bool = False) -> Kind:
    """Unicode text without control characters (tab and newline excepted when there is no pattern)."""
    regex = re.compile(pattern, re.ASCII) if pattern else None
    matches = regex.fullmatch if regex else None

    def check(value: Any) -> str:
        # Nearly all of it passes here; what does not is told why below.
        if type(value) is str and len(value) <= max_bytes and value.isascii() and value.isprintable():
            if (value or empty) and (matches is None or matches(value)):
                return value
        if type(value) is not str:
            raise DocumentError("NOT_A_STRING", f"expected a string, not {called(value)}")
        if not value and not empty:
            raise DocumentError("EMPTY", "must not be empty")
        if regex and not regex.fullmatch(value):
            raise DocumentError("PATTERN", f"does not match {pattern}")
        if _longer(value, max_bytes):
            raise DocumentError("TOO_LONG", f"longer than {max_bytes} bytes")
        if _CONTROL.search(value):
            raise DocumentError("CONTROL_CHARACTER", "holds a control character")
        return value

    return Kind(check, write=canonical.text)


def raw_text(max_bytes: int = 65536) -> Kind:
    """Text that a process gets as it is: everything but NUL, empty too."""

    def check(value: Any) -> str:
        if type(value) is not str:
            raise DocumentError("NOT_A_STRING", f"expected a string, not {called(value)}")
        if "\0" in value:
            raise DocumentError("CONTROL_CHARACTER", "holds a NUL")
        if _longer(value, max_bytes):
            raise DocumentError("TOO_LONG", f"longer than {max_bytes} bytes")
        return value

    return Kind(check, write=canonical.text)


def one_of(*choices: str) -> Kind:
    def check(value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise DocumentError("NOT_A_CHOICE", f"must be one of {', '.join(choices)}")
        return value

    return Kind(check, write=canonical.text)


def count(minimum: int = 0, maximum: int = 2**31 - 1) -> Kind:
    """A small integer, a JSON number."""

    def check(value: Any) -> int:
        if type(value) is not int:
            raise DocumentError("NOT_AN_INTEGER", f"expected an integer, not {called(value)}")
        if not minimum <= value <= maximum:
            raise DocumentError("OUT_OF_RANGE", f"must lie between {minimum} and {maximum}")
        return value

    return Kind(check, write=str)


def int64(minimum: int = -(2**63), maximum: int = 2**63 - 1) -> Kind:
    """A 64-bit integer, a decimal string on the wire."""

    def check(value: Any) -> int:
        if type(value) is not int:
            raise DocumentError("NOT_AN_INTEGER", f"expected an integer, not {called(value)}")
        if not minimum <= value <= maximum:
            raise DocumentError("OUT_OF_RANGE", f"must lie between {minimum} and {maximum}")
        return value

    def from_json(value: Any) -> int:
        try:
            return canonical.int64(value)
        except ValueError as error:
            raise DocumentError("NOT_AN_INTEGER", str(error)) from None

    return Kind(check, str, from_json, lambda value: f'"{value}"')


def each(item: Kind, *, key: Callable[[Any], Any] | None = None, maximum: int = 100_000, least: int = 0) -> Kind:
    """A list. With `key` it is a set: no key twice, always in the order of the keys (UTF-8 bytes for strings)."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise DocumentError("NOT_A_LIST", f"expected a list, not {called(value)}")
        if not least <= len(value) <= maximum:
            raise DocumentError("LIST_LENGTH", f"holds {len(value)} entries, not {least} to {maximum}")
        items = tuple(_indexed(item.check, value))
        if key is None or len(items) < 2:
            return items
        keys = [_bytes_key(key(entry)) for entry in items]
        if len(set(keys)) != len(keys):
            double = next(i for i, one in enumerate(keys) if one in keys[:i])
            raise DocumentError("DUPLICATE", "the same key stands before", f"[{double}]")
        return tuple(entry for _, entry in sorted(zip(keys, items, strict=True), key=lambda pair: pair[0]))

    def from_json(value: Any) -> list[Any]:
        if type(value) is not list:
            raise DocumentError("NOT_A_LIST", f"expected a list, not {called(value)}")
        return list(_indexed(item.from_json, value)) if item.from_json else value

    to_json, write = item.to_json, item.write
    return Kind(
        check,
        (lambda value: [to_json(entry) for entry in value]) if to_json else list,
        from_json,
        (lambda value: "[" + ",".join(map(write, value)) + "]") if write else None,
    )


def mapping(item: Kind, key: Kind, maximum: int = 10_000) -> Kind:
    """An object with free keys and values of one kind."""

    def check(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise DocumentError("NOT_AN_OBJECT", f"expected an object, not {called(value)}")
        if len(value) > maximum:
            raise DocumentError("LIST_LENGTH", f"holds {len(value)} entries, more than {maximum}")
        result = {}
        for name, entry in value.items():
            try:
                result[key.check(name)] = item.check(entry)
            except DocumentError as error:
                raise error.under(str(name)) from None
        return result

    def from_json(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise DocumentError("NOT_AN_OBJECT", f"expected an object, not {called(value)}")
        return {name: item.from_json(entry) for name, entry in value.items()} if item.from_json else value

    to_json, write_item = item.to_json, item.write

    def as_json(value: Any) -> dict[str, Any]:
        return {name: to_json(entry) for name, entry in value.items()} if to_json else dict(value)

    def write(value: Any) -> str:
        if write_item is None or not all(map(str.isascii, value)):  # code points and UTF-16 sort differently
            return canonical.dumps(as_json(value)).decode()
        return "{" + ",".join(f"{canonical.text(name)}:{write_item(value[name])}" for name in sorted(value)) + "}"

    return Kind(check, as_json, from_json, write)


def record(cls: type[Record]) -> Kind:
    """A nested Record or Document."""

    def check(value: Any) -> Record:
        if type(value) is not cls:
            raise DocumentError("NOT_AN_OBJECT", f"expected {cls.__name__}, not {called(value)}")
        return value

    return Kind(check, lambda value: value.to_dict(), cls.from_dict, lambda value: value.to_text())


def _check_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise DocumentError("NOT_A_BOOLEAN", f"expected true or false, not {called(value)}")
    return value


def _check_number(value: Any) -> float:
    if type(value) is not float:
        raise DocumentError("NOT_A_NUMBER", f"expected a float, not {called(value)}")
    if not math.isfinite(value):
        raise DocumentError("NUMBER_NOT_FINITE", "NaN and infinities are refused")
    # RFC 8785 writes both zeros as 0; an object must equal what is read back.
    return value if value else 0.0


def _read_number(value: Any) -> float:
    # 1.0 is written as 1: the declared type says that it is a float.
    if type(value) is not int and type(value) is not float:
        raise DocumentError("NOT_A_NUMBER", f"expected a number, not {called(value)}")
    return float(value)


def _check_time(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise DocumentError("NOT_A_TIME", "expected an aware datetime")
    return value.astimezone(UTC)


def _read_time(value: Any) -> datetime:
    try:
        return canonical.parse_time(value)
    except ValueError as error:
        raise DocumentError("NOT_A_TIME", str(error)) from None


def _check_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise DocumentError("NOT_BYTES", f"expected bytes, not {called(value)}")
    return value


def _read_bytes(value: Any) -> bytes:
    if type(value) is not str or len(value) % 2 or not re.fullmatch("[0-9a-f]*", value):
        raise DocumentError("NOT_BYTES", "expected lower-case hex")
    return bytes.fromhex(value)


FLAG = Kind(_check_flag, write=lambda value: "true" if value else "false")
NUMBER = Kind(_check_number, from_json=_read_number, write=canonical.number)
"""A finite float; the only kind that may be one."""
TIME = Kind(_check_time, canonical.format_time, _read_time, lambda value: f'"{canonical.format_time(value)}"')
BYTES = Kind(_check_bytes, bytes.hex, _read_bytes, lambda value: f'"{value.hex()}"')
DIGEST = text(71, DIGEST_PATTERN)
HEX256 = text(64, "[0-9a-f]{64}")
LABEL = text(63, LABEL_PATTERN)
"""A lower-case DNS label."""
UUID = text(36, "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PROJECT = text(72, f"projects/{LABEL_PATTERN}")
AGENT = text(70, f"agents/{LABEL_PATTERN}")
RUN = text(200, f"projects/{LABEL_PATTERN}/runs/{LABEL_PATTERN}")
ATTEMPT = text(512, f"projects/{LABEL_PATTERN}/runs/{LABEL_PATTERN}/steps/{LABEL_PATTERN}/attempts/[1-9][0-9]{{0,17}}")
RESOURCE = text(
    512, r"[a-z][A-Za-z]*/[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:/[a-z][A-Za-z]*/[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
)
"""Any resource name: pairs of collection and id."""
PLATFORM = text(64, r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9._]+)?")
"""An OCI platform, for example linux/amd64 or linux/arm64/v8."""
MEDIA_TYPE = text(255, r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
LABELS = mapping(text(256, empty=True), text(63, r"[a-z0-9](?:[-a-z0-9_./]{0,61}[a-z0-9])?"), 64)


def _indexed(function: Callable[[Any], Any], values: Iterable[Any]) -> Iterable[Any]:
    index = 0
    try:
        for value in values:
            yield function(value)
            index += 1
    except DocumentError as error:
        raise error.under(f"[{index}]") from None


def _longer(value: str, max_bytes: int) -> bool:
    if len(value) > max_bytes or value.isascii():
        return len(value) > max_bytes
    return len(value.encode("utf-8", "surrogatepass")) > max_bytes


def _bytes_key(key: Any) -> Any:
    if isinstance(key, str):
        return key.encode("utf-8", "surrogatepass")
    if isinstance(key, tuple):
        return tuple(_bytes_key(part) for part in key)
    return key
