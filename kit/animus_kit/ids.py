"""Randomness comes through the door: what makes ids takes an `Ids`."""

from __future__ import annotations

import secrets
import uuid
from typing import Protocol


class Ids(Protocol):
    def uuid(self) -> str:
        """A random UUID (version 4), in its lower-case form with hyphens."""

    def token(self, nbytes: int) -> str:
        """A secret of that many random bytes, as lower-case hex."""


class RandomIds:
    """The operating system's randomness."""

    def uuid(self) -> str:
        return str(uuid.uuid4())

    def token(self, nbytes: int) -> str:
        return secrets.token_hex(nbytes)


def derived(request_id: str, purpose: str) -> str:
    """The request id of a call made on behalf of another: the same for the same purpose, so that a retry of the outer
    call repeats the inner one. RFC 9562 §5.5 (UUIDv5), with the outer id as namespace."""
    return str(uuid.uuid5(uuid.UUID(request_id), purpose))
