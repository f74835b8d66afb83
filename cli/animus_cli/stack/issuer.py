"""Bearer tokens of the stack's own issuer: JWT (RFC 7519) signed with ES256 (RFC 7518 §3.4), type at+jwt (RFC 9068).

For the local stack alone. In production an OpenID provider issues them, and Animus holds no key that could.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from animus_cli.stack.layout import Layout

ISSUER = "https://issuer.animus.local"
AUDIENCE = "animus"
LIFETIME = timedelta(minutes=15)
ADMINISTRATORS = "platform-admins"
OPERATOR = "operator"


def mint(layout: Layout, subject: str, groups: Sequence[str], now: datetime, lifetime: timedelta = LIFETIME) -> str:
    """A token for subject. Raises FileNotFoundError where no stack was made, PermissionError for other users."""
    key = serialization.load_pem_private_key(layout.issuer_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    key_id = json.loads(layout.jwks.read_text())["keys"][0]["kid"]
    issued = int(now.timestamp())
    header = {"alg": "ES256", "typ": "at+jwt", "kid": key_id}
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "groups": list(groups),
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
        "jti": secrets.token_hex(8),
    }
    text = f"{_part(header)}.{_part(claims)}"
    r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(value: object) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
