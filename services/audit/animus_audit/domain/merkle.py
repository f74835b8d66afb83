"""The Merkle tree of the log: RFC 6962 §2.1 hashes, kept as a frontier.

A frontier holds one hash for each perfect subtree of the tree, largest first: exactly what is needed to append leaves
and to tell the root. It is 32 bytes for each one bit of the size, so it fits the head row.

Standard library only: an auditor may run this file alone.
"""

import hashlib
from collections.abc import Iterable

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf), RFC 6962 §2.1."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 6962 §2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of an append-only tree. Not safe for use by two threads at once."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()):
        self.size = size
        self._hashes = list(hashes)
        if size < 0 or len(self._hashes) != size.bit_count() or any(len(h) != HASH_BYTES for h in self._hashes):
            raise ValueError(f"a frontier of size {size} needs {max(size, 0).bit_count()} hashes of {HASH_BYTES} bytes")

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "Frontier":
        """Reads what to_bytes wrote for this size."""
        if len(data) % HASH_BYTES:
            raise ValueError("a frontier is a multiple of 32 bytes long")
        return cls(size, (data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)))

    def to_bytes(self) -> bytes:
        return b"".join(self._hashes)

    def append(self, leaf: bytes) -> None:
        """Takes in the hash of one more leaf (not the leaf itself)."""
        carry = leaf
        # Each trailing one bit of the size is a perfect subtree that the new leaf completes into a larger one.
        size = self.size
        while size & 1:
            carry = node_hash(self._hashes.pop(), carry)
            size >>= 1
        self._hashes.append(carry)
        self.size += 1

    def root(self) -> bytes:
        """The tree head of RFC 6962 §2.1: subtrees are folded from the smallest to the largest."""
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = node_hash(left, root)
        return root
