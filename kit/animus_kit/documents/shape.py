"""How a frozen dataclass becomes canonical JSON and back.

A document declares each field once, with its *kind*:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Grant(Document):
        NOUN: ClassVar[str] = "grant"
        agent: str = field(AGENT)
        write_bytes: int = field(int64(minimum=0))
        note: str | None = field(text(100), optional=True)

The kind checks the Python value when the object is made, so that an object that exists is valid; writes it to JSON;
and reads it back. Wire names are the camelCase of the attribute. An optional field that is None is absent. Unknown
fields are refused: the version of a document is in its type.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from . import canonical
from .errors import DocumentError


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold. `check` returns the value, perhaps in its one normal form, or raises DocumentError."""

    check: Callable[[Any], Any]
    to_json: Callable[[Any], Any] | None = None
    """None: the value is its own JSON."""
    from_json: Callable[[Any], Any] | None = None
    """None: `check` alone decides about what is read."""
    write: Callable[[Any], str] | None = None
    """The canonical JSON of a checked value. None: by way of `to_json`."""


def field(kind: Kind, *, optional: bool = False, name: str | None = None) -> Any:
    """A dataclass field of a document. `name` overrides the wire name."""
    meta = {"kind": kind, "optional": optional, "name": name}
    if optional:
        return dataclasses.field(default=None, metadata=meta)
    return dataclasses.field(metadata=meta)


class Record:
    """A part of a document. Subclasses are frozen dataclasses whose fields are made with `field`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for attribute, wire, check, _, _, optional in _fields(type(self)):
            value = getattr(self, attribute)
            if value is None and optional:
                continue
            try:
                checked = check(value)
            except DocumentError as error:
                raise error.under(wire) from None
            if checked is not value:
                object.__setattr__(self, attribute, checked)
        self.check()

    def check(self) -> None:
        """Rules between fields. Raises DocumentError."""

    def to_text(self) -> str:
        """The canonical JSON of `to_dict`, several times faster than by way of it: the fields were checked when the
        object was made, and their order is the class's."""
        parts = []
        for attribute, head, write in _writers(type(self)):
            value = getattr(self, attribute)
            if value is not None:
                parts.append(head + write(value))
        return "{" + ",".join(parts) + "}"

    def to_dict(self) -> dict[str, Any]:
        result = {}
        for attribute, wire, _, to_json, _, _ in _fields(type(self)):
            value = getattr(self, attribute)
            if value is not None:
                result[wire] = to_json(value) if to_json else value
        return result

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Reads parsed JSON. Raises DocumentError, with NOT_AN_OBJECT, FIELD_UNKNOWN or FIELD_MISSING among others."""
        if type(value) is not dict:
            raise DocumentError("NOT_AN_OBJECT", f"expected an object, not {called(value)}")
        fields = _fields(cls)
        arguments = {}
        known = 0
        for attribute, wire, _, _, from_json, optional in fields:
            if wire in value:
                known += 1
                item = value[wire]
                if item is None:
                    raise DocumentError("NULL", "an absent field is absent, never null", wire)
                try:
                    arguments[attribute] = from_json(item) if from_json else item
                except DocumentError as error:
                    raise error.under(wire) from None
            elif not optional:
                raise DocumentError("FIELD_MISSING", "is required", wire)
        if known != len(value):
            raise DocumentError("FIELD_UNKNOWN", "no such field", min(value.keys() - {one[1] for one in fields}))
        return cls(**arguments)


class Document(Record):
    """A whole document: a Record with a `type`, bytes and a digest."""

    # The bytes, once they are known: a document is frozen, and its digest is asked for more than once.
    __slots__ = ("_bytes",)
    NOUN: ClassVar[str]

    @classmethod
    def type(cls) -> str:
        return canonical.type_of(cls.NOUN)

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type(), **super().to_dict()}

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        if not isinstance(value, dict) or value.get("type") != cls.type():
            raise DocumentError("WRONG_TYPE", f"expected {cls.type()}", "type")
        return super().from_dict({key: item for key, item in value.items() if key != "type"})

    def to_bytes(self) -> bytes:
        """The one byte string of this document."""
        try:
            return self._bytes
        except AttributeError:
            try:
                data = self.to_text().encode()
            except UnicodeEncodeError:  # a lone surrogate: this way says where
                data = canonical.dumps(self.to_dict())
            object.__setattr__(self, "_bytes", data)
            return data

    def to_text(self) -> str:
        try:
            return self._bytes.decode()
        except AttributeError:
            return super().to_text()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads exactly what `to_bytes` writes. Raises DocumentError."""
        try:
            # Without hooks json reads several times faster. What it lets through is caught by the comparison, and what
            # is refused is read again for the reason.
            document = cls.from_dict(json.loads(data.decode()))
            if document.to_bytes() == data:
                return document
        except (ValueError, RecursionError, AttributeError):
            pass
        document = cls.from_dict(canonical.decode(data))
        if document.to_bytes() != data:
            # Not RFC 8785, or for example a list out of order: canonical JSON, and not this document's one form.
            raise DocumentError("NOT_CANONICAL", "the bytes are not this document's one form")
        return document

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the bytes."""
        return digest_of(self.to_bytes())


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def called(value: Any) -> str:
    """What a value is, for messages."""
    names = {dict: "an object", list: "a list", tuple: "a list", str: "a string", bool: "a boolean", int: "an integer"}
    return names.get(type(value), type(value).__name__)


_Field = tuple[str, str, Callable[[Any], Any], Callable[[Any], Any] | None, Callable[[Any], Any] | None, bool]
_CACHE: dict[type, tuple[_Field, ...]] = {}


def _fields(cls: type) -> tuple[_Field, ...]:
    """Attribute, wire name, check, to_json, from_json and whether it is optional, for each field."""
    known = _CACHE.get(cls)
    if known is None:
        known = _CACHE[cls] = tuple(_field(one) for one in dataclasses.fields(cls))
    return known


_Writer = tuple[str, str, Callable[[Any], str]]
_WRITERS: dict[type, tuple[_Writer, ...]] = {}


def _writers(cls: type) -> tuple[_Writer, ...]:
    """Attribute, `"name":` and writer of each field, in the order of the names, which are ASCII."""
    known = _WRITERS.get(cls)
    if known is None:
        found = []
        for one in dataclasses.fields(cls):
            kind: Kind = one.metadata["kind"]
            found.append((one.metadata["name"] or _camel(one.name), one.name, kind.write or _by_json(kind)))
        if issubclass(cls, Document):
            text = canonical.text(cls.type())
            found.append(("type", "NOUN", lambda _: text))
        found.sort()
        known = _WRITERS[cls] = tuple((attribute, f'"{wire}":', write) for wire, attribute, write in found)
    return known


def _by_json(kind: Kind) -> Callable[[Any], str]:
    to_json = kind.to_json
    return lambda value: canonical.dumps(to_json(value) if to_json else value).decode()


def _field(one: dataclasses.Field) -> _Field:
    kind: Kind = one.metadata["kind"]
    wire = one.metadata["name"] or _camel(one.name)
    return one.name, wire, kind.check, kind.to_json, kind.from_json, one.metadata["optional"]


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
