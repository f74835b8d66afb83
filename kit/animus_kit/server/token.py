"""Bearer tokens of people, checked behind one adapter.

The only module that imports python-jose. It accepts keys that it loaded itself and found to be asymmetric, and passes
the library an explicit list of asymmetric algorithms, because the library's own checks have been bypassed with
public keys used as HMAC secrets (docs/adr/0006). Format: JWT (RFC 7519), access tokens as RFC 9068, JWKS (RFC 7517).
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from jose import jwk, jwt
from jose.exceptions import JOSEError

from animus_kit.clock import Clock
from animus_kit.errors import Unauthenticated, Unavailable
from animus_kit.log import get_logger

log = get_logger(__name__)

# Algorithm → the only key type it may be used with.
ALGORITHMS: Mapping[str, str] = {
    "ES256": "EC",
    "ES384": "EC",
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
}
TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
# People's tokens are short (design: at most 15 minutes); the second minute is for the issuer's clock.
MAX_LIFETIME_SECONDS = 16 * 60
CLOCK_TOLERANCE_SECONDS = 30
MAX_TOKEN_BYTES = 16 * 1024
# An unknown key id makes the keys be read again, at most this often.
REFETCH_SECONDS = 60.0
# After a read that failed.
RETRY_SECONDS = 1.0


class TokenInvalid(Unauthenticated):
    """The bearer token is missing, forged, expired or for somebody else."""

    reason = "TOKEN_INVALID"


class TokenKeysUnavailable(Unavailable):
    """The issuer's keys cannot be read now: nothing can be said about the token."""

    reason = "TOKEN_KEYS_UNAVAILABLE"


@dataclass(frozen=True)
class Claims:
    """What a valid token says. Times are UTC."""

    subject: str
    groups: tuple[str, ...]
    issued_at: datetime
    expires: datetime


class KeySource(Protocol):
    """Where the issuer's public keys come from."""

    def read(self) -> bytes:
        """The JWKS document, as it is now."""


@dataclass(frozen=True)
class FileKeys:
    """A JWKS file, replaced as a whole when keys rotate."""

    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class UrlKeys:
    """A JWKS at an https URL inside the network."""

    url: str
    timeout: float = 3.0

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme != "https":
            raise ValueError("a JWKS URL must be https")

    def read(self) -> bytes:
        with urllib.request.urlopen(self.url, timeout=self.timeout) as answer:  # noqa: S310 - https checked above
            return answer.read(1024 * 1024)


@dataclass
class TokenVerifier:
    """Verifies tokens of one issuer. Thread-safe."""

    issuer: str
    audience: str
    keys: KeySource
    clock: Clock
    groups_claim: str = "groups"
    _keys: dict[str, tuple[str, Any]] = field(default_factory=dict, init=False, repr=False)
    _next_read: float = field(default=float("-inf"), init=False, repr=False)
    _unread: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def verify(self, token: str) -> Claims:
        """Checks signature, type, issuer, audience, times and lifetime. Raises TokenInvalid, or
        TokenKeysUnavailable."""
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid("the token is too large")
        header = self._header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise TokenInvalid("the token's algorithm is not accepted")
        if str(header.get("typ", "")).lower() not in TOKEN_TYPES:
            raise TokenInvalid("not an access token: its type is not at+jwt")
        if not isinstance(key_id, str) or not key_id:
            raise TokenInvalid("the token names no key")
        key_type, key = self._key(key_id)
        if ALGORITHMS[algorithm] != key_type:
            raise TokenInvalid("the token's algorithm does not fit its key")
        options = {"verify_at_hash": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            claims = jwt.decode(
                token, key, algorithms=[algorithm], audience=self.audience, issuer=self.issuer, options=options
            )
        except JOSEError as error:
            raise TokenInvalid("the token's signature, issuer or audience is not accepted") from error
        return self._claims(claims)

    def _header(self, token: str) -> Mapping[str, Any]:
        try:
            return jwt.get_unverified_header(token)
        except JOSEError as error:
            raise TokenInvalid("the token is malformed") from error

    def _claims(self, claims: Mapping[str, Any]) -> Claims:
        # jose passes a token without these claims, so presence and times are judged here, by our own clock.
        if claims.get("iss") != self.issuer:
            raise TokenInvalid("the token's issuer is not accepted")
        audience = claims.get("aud")
        if audience != self.audience and not (isinstance(audience, list) and self.audience in audience):
            raise TokenInvalid("the token is for another audience")
        issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
        now = self.clock.now().timestamp()
        if expires + CLOCK_TOLERANCE_SECONDS <= now:
            raise TokenInvalid("the token has expired")
        starts = max(issued, _seconds(claims, "nbf") if "nbf" in claims else issued)
        if starts - CLOCK_TOLERANCE_SECONDS > now:
            raise TokenInvalid("the token is not valid yet")
        if expires - issued > MAX_LIFETIME_SECONDS:
            raise TokenInvalid("the token's lifetime is too long")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject.encode()) <= 256:
            raise TokenInvalid("the token names no subject")
        groups = claims.get(self.groups_claim, [])
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise TokenInvalid("the token's groups are malformed")
        return Claims(subject, tuple(groups), _utc(issued), _utc(expires))

    def _key(self, key_id: str) -> tuple[str, Any]:
        if known := self._keys.get(key_id):
            return known  # without the lock: an issuer that is slow to answer holds up nobody whose key is known
        with self._lock:
            if key_id not in self._keys and self.clock.monotonic() >= self._next_read:
                self._read()
            if known := self._keys.get(key_id):
                return known
            if self._unread:
                raise TokenKeysUnavailable("the issuer's keys cannot be read", retry_after=RETRY_SECONDS)
            raise TokenInvalid("the token's key is not known")

    def _read(self) -> None:
        try:
            self._keys, self._unread = _load(self.keys.read()), False
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._unread = True
            log.error("the issuer's keys cannot be read", error=repr(error))
        self._next_read = self.clock.monotonic() + (RETRY_SECONDS if self._unread else REFETCH_SECONDS)


def _load(document: bytes) -> dict[str, tuple[str, Any]]:
    """The asymmetric signature keys of a JWKS by key id; any other entry is left out, and so is one that is broken.
    Raises ValueError, KeyError or TypeError where the document is no JWKS."""
    keys: dict[str, tuple[str, Any]] = {}
    for entry in list(json.loads(document)["keys"]):
        try:
            key_type, key_id = entry.get("kty"), entry.get("kid")
            algorithm = entry.get("alg") or {"EC": "ES256", "RSA": "RS256"}.get(key_type)
            usable = ALGORITHMS.get(algorithm) == key_type and entry.get("use", "sig") == "sig" and "d" not in entry
            if usable and isinstance(key_id, str):
                keys[key_id] = (key_type, jwk.construct(entry, algorithm=algorithm).to_dict())
        except Exception as error:  # whatever the library makes of it: the issuer's other keys are good
            log.warning("a key of the issuer is left out", error=repr(error))
    return keys


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalid(f"the token's {name} is missing or malformed")
    return float(value)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
