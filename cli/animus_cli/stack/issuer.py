"""The stack's own token issuer. In production an OpenID provider issues tokens, and Animus holds no key that could."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from animus_cli.stack.layout import Layout
from animus_client.issuer import LocalIssuer

ISSUER = "https://issuer.animus.local"
AUDIENCE = "animus"
ADMINISTRATORS = "platform-admins"
OPERATOR = "operator"


def mint(layout: Layout, subject: str, groups: Sequence[str], now: datetime) -> str:
    """A token for subject. Raises FileNotFoundError where no stack was made, PermissionError for other users."""
    return LocalIssuer.from_pem(ISSUER, AUDIENCE, layout.issuer_key.read_bytes()).token(subject, now, groups)
