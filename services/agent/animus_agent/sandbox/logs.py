"""The k8s-file log that conmon writes: `<RFC 3339 time> stdout|stderr F|P <text>\\n`, P for a line that goes on.

Read by byte offset of the file, so that another process can go on where one stopped. What is shipped is the text alone;
the attempt's log is the concatenation of all text, in the order of the file, and `offset` counts its bytes. The order
between the two streams is conmon's and not exact.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 1 << 20
CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Cursor:
    """`raw`: offset in the file. `text`: bytes of the attempt's log so far."""

    raw: int = 0
    text: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text of one stream; `after` is where to go on once it is kept."""

    offset: int
    data: bytes
    stderr: bool
    after: Cursor


def size(path: Path) -> int:
    """Bytes of the file so far; 0 before there is one."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def read(path: Path, cursor: Cursor, *, final: bool = False, limit: int = READ_BYTES) -> list[Chunk]:
    """Chunks of whole lines after `cursor`, at most `limit` bytes of the file at once; [] when there is nothing new.

    `final`: nobody writes any more, so that a last line without its end (conmon was killed) is taken as it is.
    """
    try:
        with path.open("rb") as file:
            file.seek(cursor.raw)
            data = file.read(limit)
    except FileNotFoundError:
        return []
    end = data.rfind(b"\n") + 1
    if end == 0:
        if not data or not (final or len(data) == limit):
            return []
        end = len(data)
    elif final and len(data) < limit:
        end = len(data)
    return _chunks(data[:end], cursor)


def _chunks(data: bytes, cursor: Cursor) -> list[Chunk]:
    chunks: list[Chunk] = []
    text = bytearray()
    stderr = False
    raw, offset = cursor.raw, cursor.text

    def close() -> None:
        nonlocal text, offset
        if text:
            end = offset + len(text)
            chunks.append(Chunk(offset, bytes(text), stderr, Cursor(raw, end)))
            offset, text = end, bytearray()

    for line in _lines(data):
        from_stderr, content = _content(line)
        if text and (from_stderr != stderr or len(text) + len(content) > CHUNK_BYTES):
            close()
        stderr = from_stderr
        # Only a torn line is longer than a chunk. Within it there is no place in the file to go on from.
        while len(content) > CHUNK_BYTES:
            text += content[:CHUNK_BYTES]
            content = content[CHUNK_BYTES:]
            close()
        text += content
        raw += len(line)
    close()
    if not chunks and raw > cursor.raw:
        chunks.append(Chunk(offset, b"", stderr, Cursor(raw, offset)))
    return chunks


def _lines(data: bytes) -> list[bytes]:
    """Lines by \\n alone; bytes.splitlines would also split at a carriage return, which progress bars are full of."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _content(line: bytes) -> tuple[bool, bytes]:
    fields = line.split(b" ", 3)
    if len(fields) < 4 or fields[1] not in (b"stdout", b"stderr"):
        # A torn line of a log whose writer was killed: kept, so that nothing is lost silently.
        return False, line
    text = fields[3]
    if fields[2] == b"P" and text.endswith(b"\n"):
        text = text[:-1]
    return fields[1] == b"stderr", text
