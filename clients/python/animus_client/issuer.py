"""An issuer of tokens for one machine: the local stack's, and that of tests. Production has an OIDC provider.

A P-256 key in a file; tokens are ES256 access tokens (RFC 7519, RFC 9068), the public key a JWKS (RFC 7517).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

LIFETIME = timedelta(minutes=15)
"""The longest that services accept."""


@dataclass(frozen=True)
class LocalIssuer:
    issuer: str
    audience: str
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls, issuer: str, audience: str) -> LocalIssuer:
        return cls(issuer, audience, ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, issuer: str, audience: str, pem: bytes) -> LocalIssuer:
        """Raises ValueError for anything but a P-256 key."""
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("the issuer's key must be ECDSA P-256")
        return cls(issuer, audience, key)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def jwks(self) -> bytes:
        return json.dumps({"keys": [{**self._public(), "kid": self._key_id(), "alg": "ES256", "use": "sig"}]}).encode()

    def token(
        self, subject: str, now: datetime, groups: Sequence[str] = (), lifetime: timedelta = LIFETIME, **claims: Any
    ) -> str:
        """claims: over those that a token has anyway, for tests of what is refused."""
        issued = int(now.timestamp())
        body = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "groups": list(groups),
            "iat": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "jti": secrets.token_hex(16),
            **claims,
        }
        header = {"alg": "ES256", "typ": "at+jwt", "kid": self._key_id()}
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(body).encode())}"
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _public(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        return {"crv": "P-256", "kty": "EC", "x": _encode(x), "y": _encode(y)}

    def _key_id(self) -> str:
        """RFC 7638's thumbprint."""
        canonical = json.dumps(self._public(), sort_keys=True, separators=(",", ":")).encode()
        return _encode(hashlib.sha256(canonical).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
