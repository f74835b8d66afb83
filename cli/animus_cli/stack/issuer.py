"""Bearer tokens of the stack's own issuer.

For the local stack alone. In production an OpenID provider issues them, and Animus holds no key that could.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from animus_cli.stack.layout import Layout
from animus_client.auth import AUDIENCE, STACK_ISSUER
from animus_client.issuer import LIFETIME, LocalIssuer

ISSUER = STACK_ISSUER
ADMINISTRATORS = "platform-admins"
OPERATOR = "operator"

__all__ = ["ADMINISTRATORS", "AUDIENCE", "ISSUER", "OPERATOR", "mint"]


def mint(layout: Layout, subject: str, groups: Sequence[str], now: datetime, lifetime: timedelta = LIFETIME) -> str:
    """A token for subject. Raises FileNotFoundError where no stack was made, PermissionError for other users."""
    issuer = LocalIssuer.from_pem(ISSUER, AUDIENCE, layout.issuer_key.read_bytes())
    return issuer.token(subject, now, groups, lifetime)
