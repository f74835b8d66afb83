"""The agents' certificate authority, the join tokens that let a node in, and what an agent gets when it enrols."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from animus_kit import pki
from animus_orchestrator.domain.errors import CsrInvalid, ProofInvalid, TokenInvalid

TOKEN_PREFIX = "animus1"
_TOKEN = re.compile(rf"{TOKEN_PREFIX}\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
PROOF_CONTEXT = b"animus-enroll\n"
MAX_TOKEN_LIFETIME = timedelta(hours=1)
DEFAULT_TOKEN_LIFETIME = timedelta(minutes=15)
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class TokenText:
    """A join token, taken apart: `animus1.<id>.<secret>.<pin of dispatch's CA>`."""

    id: str
    secret: str
    pin: str

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}.{self.id}.{self.secret}.{self.pin}"

    @property
    def secret_hash(self) -> bytes:
        # A random secret of 256 bits needs no slow hash.
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, stored: bytes) -> bool:
        return hmac.compare_digest(self.secret_hash, stored)


def parse_token(text: str) -> TokenText:
    """Raises: TokenInvalid."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise TokenInvalid("not a join token")
    return TokenText(*match.groups())


@dataclass(frozen=True, slots=True)
class Certificate:
    pem: bytes
    serial: str
    not_after: datetime
    key_digest: str


class AgentAuthority:
    """Signs agents' TLS certificates. From a request it takes the public key and nothing else."""

    def __init__(self, ca: pki.CertificateAuthority, trust_domain: str, lifetime: timedelta = pki.AGENT_LIFETIME):
        self._ca = ca
        self._trust_domain = trust_domain
        self._lifetime = lifetime

    def sign(self, csr_pem: bytes, agent_id: str, now: datetime) -> Certificate:
        """Raises: CsrInvalid."""
        key = _public_key(csr_pem)
        leaf = pki.sign_agent(self._ca, key, agent_id, self._trust_domain, now, self._lifetime)
        parsed = x509.load_pem_x509_certificate(leaf)
        return Certificate(
            pem=leaf + self._ca.certificate_pem,
            serial=format(parsed.serial_number, "x"),
            not_after=parsed.not_valid_after_utc,
            key_digest=key_digest(csr_pem),
        )


def key_digest(csr_pem: bytes) -> str:
    """Names the public key of a request. Raises: CsrInvalid."""
    der = _public_key(csr_pem).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _public_key(csr_pem: bytes):
    try:
        return pki.csr_public_key(csr_pem)
    except pki.PkiError as error:
        raise CsrInvalid(str(error)) from None


def check_possession(public_key: bytes, proof: bytes, csr_pem: bytes) -> None:
    """The attestation key is held by whoever asks, and belongs to this very request. Raises: ProofInvalid."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(proof, PROOF_CONTEXT + csr_pem)
    except (InvalidSignature, ValueError):
        raise ProofInvalid("attestation_proof is not a signature of the request by attestation_public_key") from None
