"""Opening grants: offline, with the contract keys of the trust bundle in force."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from animus_catalog.domain.errors import GrantExpired, GrantInvalid
from animus_kit.clock import Clock
from animus_kit.documents.bundle import TrustBundle, open_bundle
from animus_kit.documents.contract import Grant, open_grant
from animus_kit.documents.errors import DocumentError
from animus_kit.log import get_logger

log = get_logger(__name__)


_PEM_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)


def read_roots(file: Path) -> list[Ed25519PublicKey]:
    """The root keys of a PEM file: one, or two while the root changes. Raises ValueError, OSError."""
    keys = [load_pem_public_key(pem) for pem in _PEM_KEY.findall(file.read_bytes())]
    if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
        raise ValueError(f"{file}: must hold Ed25519 public keys in PEM")
    return keys


class TrustedKeys:
    """The trust bundle of a file, read again when the file changes. A bundle older than one seen before is refused."""

    def __init__(self, bundle: Path, roots: Sequence[Ed25519PublicKey], trust_domain: str):
        """Raises DocumentError, or OSError: a catalog without a bundle must not start."""
        self._path = bundle
        self._roots = roots
        self._trust_domain = trust_domain
        self._lock = threading.Lock()
        self._stamp = self._stat()
        self._bundle = self._open(newest=0)

    def bundle(self) -> TrustBundle:
        with self._lock:
            try:
                stamp = self._stat()
                if stamp != self._stamp:
                    self._bundle = self._open(self._bundle.sequence)
                    self._stamp = stamp
            except (OSError, DocumentError):
                # The old bundle still holds what it held; an operator sees the warning until the file is right.
                log.exception("the trust bundle cannot be read again")
            return self._bundle

    def _open(self, newest: int) -> TrustBundle:
        return open_bundle(self._path.read_bytes(), self._roots, newest, self._trust_domain)

    def _stat(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


class Grants:
    """Verifies what agents show."""

    def __init__(self, keys: TrustedKeys, clock: Clock):
        self._keys = keys
        self._clock = clock

    def open(self, envelope: bytes, agent: str) -> Grant:
        """Returns the grant when it was given to the agent of that id and holds now. Raises GrantInvalid, GrantExpired."""
        now = self._clock.now()
        try:
            return open_grant(envelope, self._keys.bundle().keys_for("contract", now), f"agents/{agent}", now)
        except DocumentError as error:
            if error.reason == "GRANT_EXPIRED":
                raise GrantExpired("the grant's time is over") from None
            raise GrantInvalid(error.message) from None
