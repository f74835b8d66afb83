"""JSON (RFC 8259) to nodes with places.

Written here because the standard library tells places of syntax errors only, takes NaN and keeps the last of two equal
keys; and YAML's reader is no JSON reader: it reads "\\ud83d\\ude00" as two lone surrogates.
"""

import re
from bisect import bisect_right

from .node import ARRAY, BOOLEAN, INVALID, MAX_DEPTH, OBJECT, STRING, Node, Problems, check_number, join

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TEXT = re.compile(r'[^"\\\x00-\x1f]*')
_WORD = re.compile(r"[-+]?[A-Za-z_][A-Za-z0-9_]*")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def read(text: str, problems: Problems) -> Node:
    """Raises UnreadableDocument at the first syntax error; duplicate keys and bad numbers are only noted."""
    return _Reader(text, problems).document()


class _Reader:
    def __init__(self, text: str, problems: Problems) -> None:
        self._text = text
        self._problems = problems
        self._at = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> Node:
        self._skip()
        node = self._value("", 0)
        self._skip()
        if self._at < len(self._text):
            raise self._syntax("", "text after the end of the document")
        return node

    def _value(self, path: str, depth: int) -> Node:
        place = self._place(self._at)
        self._problems.read_one(place, path)
        char = self._text[self._at : self._at + 1]
        if char in ("{", "["):
            if depth >= MAX_DEPTH:
                raise self._problems.stop(place, path, "TOO_DEEP", f"more than {MAX_DEPTH} levels")
            return self._object(path, place, depth) if char == "{" else self._array(path, place, depth)
        if char == '"':
            text = self._string(path)
            return Node(INVALID, *place) if text is None else Node(STRING, *place, text)
        number = _NUMBER.match(self._text, self._at)
        if number and not _WORD.match(self._text, number.end()):
            if self._text[number.end() : number.end() + 1].isdigit():
                raise self._syntax(path, "a number does not begin with 0")
            self._at = number.end()
            return check_number(self._problems, place, path, number[0])
        word = _WORD.match(self._text, self._at)
        return self._literal(path, place, word[0] if word else "")

    def _literal(self, path: str, place: tuple[int, int], word: str) -> Node:
        if word in ("true", "false"):
            self._at += len(word)
            return Node(BOOLEAN, *place, word == "true")
        if word == "null":
            self._at += len(word)
            self._problems.add(place, path, "NULL_VALUE", "leave a field out instead of null")
            return Node(INVALID, *place)
        if word in ("NaN", "Infinity", "-Infinity"):
            self._at += len(word)
            self._problems.add(place, path, "NUMBER_NOT_FINITE", f"{word} is no JSON")
            return Node(INVALID, *place)
        raise self._syntax(path, "expected a value")

    def _object(self, path: str, place: tuple[int, int], depth: int) -> Node:
        node = Node(OBJECT, *place)
        seen: set[str] = set()
        self._at += 1
        self._skip()
        if self._take("}"):
            return node
        while True:
            key_place = self._place(self._at)
            if not self._text.startswith('"', self._at):
                raise self._syntax(path, "expected a key in double quotes")
            key = self._string(path)
            self._skip()
            if not self._take(":"):
                raise self._syntax(path, "expected ':' after the key")
            self._skip()
            item = self._value(join(path, key or ""), depth + 1)
            if key is not None:
                if key in seen:
                    self._problems.add(key_place, join(path, key), "DUPLICATE_KEY", "the key stands twice")
                else:
                    seen.add(key)
                    node.members.append((key, key_place, item))
            self._skip()
            if self._take("}"):
                return node
            if not self._take(","):
                raise self._syntax(path, "expected ',' or '}'")
            self._skip()

    def _array(self, path: str, place: tuple[int, int], depth: int) -> Node:
        node = Node(ARRAY, *place)
        self._at += 1
        self._skip()
        if self._take("]"):
            return node
        while True:
            node.items.append(self._value(join(path, len(node.items)), depth + 1))
            self._skip()
            if self._take("]"):
                return node
            if not self._take(","):
                raise self._syntax(path, "expected ',' or ']'")
            self._skip()

    def _string(self, path: str) -> str | None:
        """The string that begins here, or None when it is no Unicode text, which is noted."""
        place = self._place(self._at)
        self._at += 1
        parts: list[str] = []
        while True:
            run = _TEXT.match(self._text, self._at)
            parts.append(run[0])
            self._at = run.end()
            char = self._text[self._at : self._at + 1]
            if char == '"':
                self._at += 1
                break
            if char != "\\":
                raise self._syntax(path, "a string is not closed, or holds a control character")
            parts.append(self._escape(path))
        # Escaped surrogates come in pairs: joined in UTF-16 a pair is one character, and a lone one fails.
        try:
            return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._problems.add(place, path, "STRING_NOT_UNICODE", "holds a lone surrogate")
            return None

    def _escape(self, path: str) -> str:
        code = self._text[self._at + 1 : self._at + 2]
        if code == "u":
            digits = _HEX.match(self._text, self._at + 2)
            if not digits:
                raise self._syntax(path, "\\u needs four hex digits")
            self._at += 6
            return chr(int(digits[0], 16))
        if code not in _ESCAPES or not code:
            raise self._syntax(path, "no such escape in JSON")
        self._at += 2
        return _ESCAPES[code]

    def _take(self, char: str) -> bool:
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def _skip(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()

    def _place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def _syntax(self, path: str, message: str) -> Exception:
        return self._problems.stop(self._place(self._at), path, "SYNTAX", message)
