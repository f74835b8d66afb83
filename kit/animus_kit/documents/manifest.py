"""Manifests: the files of a dataset version, a code snapshot or an output, as one streamed document.

`{"entries":[…],"type":"animus.dev/manifest/v1"}`, entries sorted by the UTF-8 bytes of their path. An entry is
`{"kind":"file"|"executable","path":…,"sha256":<hex>,"size":"<decimal>"}` or `{"kind":"symlink","path":…,"target":…}`.
Modes, owners and times do not exist, empty folders do not either: the same content has the same digest wherever it was
pushed from. Up to a million entries, so writer and reader work on a stream and hold one entry at a time.

There is one byte string for a list of entries. The reader takes this one only, by matching each entry's exact form;
what it accepts is therefore RFC 8785, which tests hold against `rfc8785` itself.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from . import canonical
from .errors import DocumentError

TYPE = canonical.type_of("manifest")
MAX_ENTRIES = 1_000_000
MAX_PATH_BYTES = 1024
MAX_TARGET_BYTES = 1024

FILE = "file"
EXECUTABLE = "executable"
SYMLINK = "symlink"

DATASET = "dataset"
ARTIFACT = "artifact"
CODE = "code"
PROFILES = {
    DATASET: frozenset({FILE}),
    ARTIFACT: frozenset({FILE, EXECUTABLE}),
    CODE: frozenset({FILE, EXECUTABLE, SYMLINK}),
}
"""Kinds that a use of a manifest allows. The profile is not in the document: an output may become a dataset version
without another digest."""

_HEAD = b'{"entries":['
_TAIL = b'],"type":"' + TYPE.encode() + b'"}'
_STRING = rb'"((?:[^"\\\x00-\x1f]|\\["\\])*)"'
_ENTRY = re.compile(
    rb'\{"kind":"(?:(file|executable)","path":'
    + _STRING
    + rb',"sha256":"([0-9a-f]{64})","size":"(0|[1-9][0-9]{0,18})"\}'
    rb'|symlink","path":' + _STRING + rb',"target":' + _STRING + rb"\})"
)
_LONGEST_ENTRY = 2 * (MAX_PATH_BYTES + MAX_TARGET_BYTES) + 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One path. `size` and `sha256` (hex) for files, `target` for a symlink."""

    path: str
    kind: str
    size: int = 0
    sha256: str = ""
    target: str = ""

    @property
    def digest(self) -> str:
        """`sha256:<hex>`, empty for a symlink."""
        return f"sha256:{self.sha256}" if self.sha256 else ""

    @property
    def mode(self) -> int:
        """Permission bits in the sandbox."""
        return 0o555 if self.kind == EXECUTABLE else 0o444


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole manifest in short. `size_bytes` is the sum of the files' sizes."""

    digest: str
    entry_count: int
    size_bytes: int


def check_path(path: str) -> bytes:
    """Returns the path's UTF-8 bytes. Raises DocumentError PATH_INVALID."""
    encoded = _encode(path, "PATH_INVALID")
    if not encoded or len(encoded) > MAX_PATH_BYTES:
        raise DocumentError("PATH_INVALID", f"a path has 1 to {MAX_PATH_BYTES} bytes", _shown(path))
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise DocumentError("PATH_INVALID", "a path is relative and has no empty, '.' or '..' part", _shown(path))
    return encoded


def check_target(path: str, target: str) -> None:
    """Holds a symlink inside the tree. Raises DocumentError TARGET_INVALID.

    `..` is allowed in front only: in `a/../b` the kernel goes up from where the link `a` leads, not from `a`, and a
    lexical check would be fooled.
    """
    encoded = _encode(target, "TARGET_INVALID")
    if not encoded or len(encoded) > MAX_TARGET_BYTES or target.startswith("/"):
        raise DocumentError("TARGET_INVALID", "a target is relative and not too long", _shown(path))
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    if ".." in parts[up:]:
        raise DocumentError("TARGET_INVALID", "'..' after another part", _shown(path))
    if up > path.count("/"):
        raise DocumentError("TARGET_INVALID", "leads out of the tree", _shown(path))


class Checker:
    """The rules over a sequence of entries, fed one by one in order."""

    def __init__(self, profile: str) -> None:
        self._kinds = PROFILES[profile]
        self._profile = profile
        self._last = b""
        # Files whose path begins the current one. In sorted order those with a common beginning follow each other,
        # so these few are all that a later path could have as its folder ("a", "a-b", "a/b").
        self._open: list[bytes] = []
        self.count = 0
        self.size_bytes = 0

    def feed(self, entry: Entry) -> None:
        """Raises DocumentError PATH_INVALID, KIND_NOT_ALLOWED, ENTRY_INVALID, TARGET_INVALID, DUPLICATE_PATH,
        NOT_SORTED, PATH_IS_FOLDER or TOO_MANY_ENTRIES."""
        path = check_path(entry.path)
        if entry.kind not in self._kinds:
            raise DocumentError("KIND_NOT_ALLOWED", f"no {entry.kind} in a {self._profile}", _shown(entry.path))
        if entry.kind == SYMLINK:
            if entry.sha256 or entry.size:
                raise DocumentError("ENTRY_INVALID", "a symlink has a target only", _shown(entry.path))
            check_target(entry.path, entry.target)
        elif not re.fullmatch("[0-9a-f]{64}", entry.sha256) or not 0 <= entry.size < 2**63 or entry.target:
            raise DocumentError("ENTRY_INVALID", "a file has size and sha256", _shown(entry.path))
        if self.count and path <= self._last:
            reason = "DUPLICATE_PATH" if path == self._last else "NOT_SORTED"
            raise DocumentError(reason, "entries are sorted by the UTF-8 bytes of path", _shown(entry.path))
        while self._open and not path.startswith(self._open[-1]):
            self._open.pop()
        for folder in self._open:
            if path[len(folder)] == 0x2F:
                raise DocumentError("PATH_IS_FOLDER", f"{_shown(folder.decode())} is a file", _shown(entry.path))
        self._open.append(path)
        self._last = path
        self.count += 1
        self.size_bytes += entry.size
        if self.count > MAX_ENTRIES:
            raise DocumentError("TOO_MANY_ENTRIES", f"more than {MAX_ENTRIES}")


class Writer:
    """Writes a manifest to `sink` piece by piece, entries in order. `close` returns its Summary."""

    def __init__(self, sink: Callable[[bytes], object], profile: str) -> None:
        self._sink = sink
        self._checker = Checker(profile)
        self._hash = hashlib.sha256()
        self._write(_HEAD)

    def add(self, entry: Entry) -> None:
        """Raises DocumentError as `Checker.feed`; nothing of a refused entry is written."""
        self._checker.feed(entry)
        self._write((b"," if self._checker.count > 1 else b"") + encode_entry(entry))

    def close(self) -> Summary:
        self._write(_TAIL)
        return Summary("sha256:" + self._hash.hexdigest(), self._checker.count, self._checker.size_bytes)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._sink(data)


def encode_entry(entry: Entry) -> bytes:
    """The canonical JSON of one entry that was checked."""
    path = json.dumps(entry.path, ensure_ascii=False)
    if entry.kind == SYMLINK:
        target = json.dumps(entry.target, ensure_ascii=False)
        return f'{{"kind":"symlink","path":{path},"target":{target}}}'.encode()
    return f'{{"kind":"{entry.kind}","path":{path},"sha256":"{entry.sha256}","size":"{entry.size}"}}'.encode()


def dumps(entries: Iterable[Entry], profile: str) -> bytes:
    """A manifest in memory. Entries may come in any order. Raises DocumentError."""
    parts: list[bytes] = []
    writer = Writer(parts.append, profile)
    for entry in sorted(entries, key=sort_key):
        writer.add(entry)
    writer.close()
    return b"".join(parts)


def loads(data: bytes, profile: str) -> tuple[Entry, ...]:
    """All entries of a manifest in memory. Raises DocumentError."""
    return tuple(read([data], profile))


def summarize(data: bytes, profile: str) -> Summary:
    """Checks a manifest in memory. Raises DocumentError."""
    checker = Checker(profile)
    for entry in _entries([data]):
        checker.feed(entry)
    return Summary("sha256:" + hashlib.sha256(data).hexdigest(), checker.count, checker.size_bytes)


def read(chunks: Iterable[bytes], profile: str) -> Iterator[Entry]:
    """Yields the checked entries of a manifest that comes in pieces of any size.

    The manifest is valid only when the iterator has ended without an error: a bad end is told last. Raises
    DocumentError as `Checker.feed`, and NOT_CANONICAL.
    """
    checker = Checker(profile)
    for entry in _entries(chunks):
        checker.feed(entry)
        yield entry


def sort_key(entry: Entry) -> bytes:
    """The order of a manifest."""
    return entry.path.encode("utf-8", "surrogatepass")


def _entries(chunks: Iterable[bytes]) -> Iterator[Entry]:
    source = iter(chunks)
    buffer = bytearray()
    index = 0

    def want(length: int) -> None:
        while len(buffer) < length:
            chunk = next(source, None)
            if chunk is None:
                return
            buffer.extend(chunk)

    def refuse() -> DocumentError:
        return DocumentError("NOT_CANONICAL", "not a manifest in its one form", f"entries[{index}]")

    want(len(_HEAD))
    if not buffer.startswith(_HEAD):
        raise refuse()
    position = len(_HEAD)
    while True:
        # Refilled before it can run dry, and cut only then: a match never waits for a longer buffer.
        if len(buffer) - position < _LONGEST_ENTRY:
            del buffer[:position]
            position = 0
            want(max(_LONGEST_ENTRY, 65536))
        if buffer.startswith(_TAIL, position):
            want(position + len(_TAIL) + 1)
            if len(buffer) != position + len(_TAIL):
                raise refuse()
            return
        if index:
            if buffer[position : position + 1] != b",":
                raise refuse()
            position += 1
        match = _ENTRY.match(buffer, position)
        if not match:
            raise refuse()
        position = match.end()
        kind, path, sha256, size, link, target = match.groups()
        if kind:
            yield Entry(_unescape(path, index), kind.decode(), int(size), sha256.decode())
        else:
            yield Entry(_unescape(link, index), SYMLINK, target=_unescape(target, index))
        index += 1


_ESCAPE = re.compile(r"\\(.)")


def _unescape(raw: bytes, index: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DocumentError("NOT_UTF8", "not UTF-8", f"entries[{index}]") from None
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _encode(text: str, reason: str) -> bytes:
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise DocumentError(reason, "is not UTF-8", _shown(text)) from None
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise DocumentError(reason, "holds a control character", _shown(text))
    return encoded


def _shown(path: str) -> str:
    """A hostile path as it may stand in a message."""
    return path[:200].encode("unicode_escape").decode()
