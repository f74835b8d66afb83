"""SHA-256, everywhere written `sha256:<64 lower-case hex digits>` where it stands in a document or a message."""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

DIGEST_RE = re.compile(r"[0-9a-f]{64}")
"""The hex alone. Use fullmatch."""

PREFIXED_RE = re.compile(r"sha256:[0-9a-f]{64}")
"""As documents and messages carry it. Use fullmatch."""

_CHUNK = 1 << 20


def sha256_hex(data: bytes) -> str:
    """64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256(data: bytes) -> str:
    """`sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """The hex out of `sha256:<hex>`. Raises ValueError for anything else: no other algorithm is accepted anywhere."""
    if PREFIXED_RE.fullmatch(digest) is None:
        raise ValueError("not a digest of the form sha256:<64 lower-case hex digits>")
    return digest[7:]


class Sha256Stream:
    """Hashes what passes by. `size` is the number of bytes so far."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    def read(self, source: BinaryIO) -> Sha256Stream:
        """Hashes the rest of a binary file in chunks of 1 MiB."""
        while chunk := source.read(_CHUNK):
            self.update(chunk)
        return self

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()
