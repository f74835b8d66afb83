"""Where bearer tokens come from. A source is asked before every call, and answers from memory while it can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from animus_client.issuer import LIFETIME, LocalIssuer

STACK_ISSUER = "https://issuer.animus.local"
AUDIENCE = "animus"
# A token is replaced when less than this is left of it.
_LEAST_SECONDS = 60.0


class TokenSource(Protocol):
    def token(self) -> str:
        """A bearer token that holds now. Raises OSError where it cannot be read."""


@dataclass(frozen=True)
class StaticToken:
    value: str

    def token(self) -> str:
        return self.value


@dataclass(frozen=True)
class FileToken:
    """A file that something else keeps fresh, as a login helper or a mounted secret does."""

    path: Path

    def token(self) -> str:
        return self.path.read_text().strip()


@dataclass
class StackToken:
    """Tokens of a local stack's own issuer, by its key. Only who may read the key can make them."""

    key: Path
    subject: str
    groups: Sequence[str] = ()
    _token: str = field(default="", init=False, repr=False)
    _until: float = field(default=0.0, init=False, repr=False)

    def token(self) -> str:
        if time.monotonic() > self._until - _LEAST_SECONDS:
            issuer = LocalIssuer.from_pem(STACK_ISSUER, AUDIENCE, self.key.read_bytes())
            self._token = issuer.token(self.subject, datetime.now(UTC), self.groups)
            self._until = time.monotonic() + LIFETIME.total_seconds()
        return self._token
