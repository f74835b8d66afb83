"""YAML's JSON-compatible core to nodes with places.

Everything in YAML that two parsers read differently, or that a reader of the text cannot see, is refused: anchors, aliases,
tags, directives, merge keys, several documents, keys that are not strings, and plain scalars that YAML 1.1 or 1.2 take for
something else than text (`on`, `no`, `~`, `0777`, `1_000`, `.5`, `12:30`, `2026-01-01`). What is left means the same in
every parser: quoted strings, plain text, `true`, `false` and JSON's numbers.

libyaml's event stream is used, not PyYAML's composer: events tell explicit tags and anchors, come lazily (so that depth
is bounded before memory is), and are read fast enough for a megabyte.
"""

import re

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from .node import ARRAY, BOOLEAN, INVALID, MAX_DEPTH, OBJECT, STRING, Node, Problems, check_number, join

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_AMBIGUOUS = re.compile(
    r"""
      (?i:~|null|y|yes|n|no|on|off|true|false)    # words for null and booleans, beyond the exact true and false
    | [-+]?0[0-9_]+ | [-+]?0[oO][0-7_]+           # octal, in both spellings
    | [-+]?0[xX][0-9a-fA-F_]+ | [-+]?0[bB][01_]+
    | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?   # base 60
    | [-+]?(?i:\.inf|\.nan|inf|nan|infinity)
    | [-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?   # numbers that JSON spells otherwise
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt\ \t].*)?      # timestamps
    | =
    """,
    re.VERBOSE,
)


def read(text: str, problems: Problems) -> Node:
    """Raises UnreadableDocument at the first syntax error; what is refused by choice is only noted."""
    try:
        return _Reader(text, problems).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise problems.stop(place, "", "SYNTAX", _message(error)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = (before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        raise problems.stop(place, "", "CONTROL_CHARACTER", "a character that YAML does not allow") from None


class _Reader:
    def __init__(self, text: str, problems: Problems) -> None:
        self._events = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._problems = problems

    def document(self) -> Node:
        root = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise self._problems.stop(_place(event), "", "MULTIPLE_DOCUMENTS", "one document, not a stream")
                if event.version or event.tags:
                    self._problems.add(_place(event), "", "YAML_DIRECTIVE", "directives are refused")
                root = self._node(next(self._events), "", 0)
        if root is None:
            raise self._problems.stop((1, 1), "", "EMPTY_DOCUMENT", "there is nothing in it")
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        place = _place(event)
        self._problems.read_one(place, path)
        if isinstance(event, AliasEvent):
            self._problems.add(place, path, "YAML_ALIAS", f"aliases are refused: *{event.anchor}")
            return Node(INVALID, *place)
        if event.anchor:
            self._problems.add(place, path, "YAML_ANCHOR", f"anchors are refused: &{event.anchor}")
        if event.tag:
            self._problems.add(place, path, "YAML_TAG", f"tags are refused: {event.tag}")
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path, place)
        if depth >= MAX_DEPTH:
            raise self._problems.stop(place, path, "TOO_DEEP", f"more than {MAX_DEPTH} levels")
        if isinstance(event, SequenceStartEvent):
            node = Node(ARRAY, *place)
            while not isinstance(item := next(self._events), SequenceEndEvent):
                node.items.append(self._node(item, join(path, len(node.items)), depth + 1))
            return node
        return self._mapping(path, place, depth)

    def _mapping(self, path: str, place: tuple[int, int], depth: int) -> Node:
        node = Node(OBJECT, *place)
        seen: set[str] = set()
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._key(event, path, depth)
            item = self._node(next(self._events), join(path, key or ""), depth + 1)
            if key is None:
                continue
            if key in seen:
                self._problems.add(_place(event), join(path, key), "DUPLICATE_KEY", "the key stands twice")
                continue
            seen.add(key)
            node.members.append((key, _place(event), item))
        return node

    def _key(self, event: yaml.Event, path: str, depth: int) -> str | None:
        if isinstance(event, ScalarEvent) and _plain(event) and event.value == "<<":
            self._problems.add(_place(event), path, "YAML_MERGE_KEY", "merge keys are refused")
            return None
        before = len(self._problems)
        node = self._node(event, path, depth + 1)
        if node.kind == STRING:
            return node.value
        if len(self._problems) == before:
            self._problems.add(_place(event), path, "KEY_NOT_STRING", "a key is a string; put it in quotes")
        return None

    def _scalar(self, event: ScalarEvent, path: str, place: tuple[int, int]) -> Node:
        text = event.value
        if not _plain(event) or event.tag:
            return self._string(text, path, place)
        if text in ("true", "false"):
            return Node(BOOLEAN, *place, text == "true")
        if _NUMBER.fullmatch(text):
            return check_number(self._problems, place, path, text)
        if text in ("", "null", "~"):
            self._problems.add(place, path, "NULL_VALUE", "leave a field out instead of null; an empty string is ''")
            return Node(INVALID, *place)
        if _AMBIGUOUS.fullmatch(text):
            self._problems.add(
                place, path, "AMBIGUOUS_SCALAR", f"YAML parsers disagree about {text[:64]}; put text in quotes"
            )
            return Node(INVALID, *place)
        return self._string(text, path, place)

    def _string(self, text: str, path: str, place: tuple[int, int]) -> Node:
        # libyaml refuses escaped surrogates itself; this holds whatever it does.
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self._problems.add(place, path, "STRING_NOT_UNICODE", "holds a lone surrogate")
            return Node(INVALID, *place)
        return Node(STRING, *place, text)


def _plain(event: ScalarEvent) -> bool:
    return not event.style  # libyaml says "" where PyYAML's own parser says None


def _place(event: yaml.Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _message(error: yaml.MarkedYAMLError) -> str:
    return ": ".join(part for part in (error.context, error.problem) if part) or "not YAML"
