"""The trust bundle: which key may sign what, and the two CAs; signed by the offline root.

An agent keeps the highest sequence it saw and refuses a lower one. A key signs one purpose; the next key stands in the
bundle before its first use, and a retired one stays for verifying what it signed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from . import dsse
from .errors import DocumentError
from .kinds import AGENT, BYTES, HEX256, LABEL_PATTERN, TIME, each, int64, one_of, record, text
from .shape import Document, Record, field

PURPOSES = ("contract", "checkpoint", "decision", "commit", "attestation")
"""`attestation` signs the certificates of agents' attestation keys; agents' own keys are never in the bundle."""

_PEM = text(16384, r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n")
TRUST_DOMAIN = text(253, rf"{LABEL_PATTERN}(?:\.{LABEL_PATTERN})*")


def encode_key(key: Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo in DER, as documents carry public keys."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def decode_key(spki: bytes) -> Ed25519PublicKey:
    """Raises DocumentError KEY_INVALID."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise DocumentError("KEY_INVALID", "not a public key in DER") from None
    if not isinstance(key, Ed25519PublicKey) or encode_key(key) != spki:
        raise DocumentError("KEY_INVALID", "not an Ed25519 key in its one DER form")
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey(Record):
    """A signing key of the control plane. `public_key` is its SubjectPublicKeyInfo in DER."""

    key_id: str = field(HEX256)
    public_key: bytes = field(BYTES)
    purpose: str = field(one_of(*PURPOSES))
    not_before: datetime = field(TIME)
    not_after: datetime = field(TIME)
    revoked_at: datetime | None = field(TIME, optional=True)

    def check(self) -> None:
        if dsse.key_id(decode_key(self.public_key)) != self.key_id:
            raise DocumentError("KEY_ID", "is not the key's", "keyId")
        if self.not_after <= self.not_before:
            raise DocumentError("OUT_OF_RANGE", "must be after notBefore", "notAfter")

    @classmethod
    def of(cls, key: Ed25519PublicKey, purpose: str, not_before: datetime, not_after: datetime) -> "TrustedKey":
        return cls(
            key_id=dsse.key_id(key),
            public_key=encode_key(key),
            purpose=purpose,
            not_before=not_before,
            not_after=not_after,
        )

    def valid_at(self, when: datetime) -> bool:
        return self.not_before <= when < self.not_after and (self.revoked_at is None or when < self.revoked_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness(Record):
    """Somebody outside who countersigns checkpoints."""

    name: str = field(text(256))
    key_id: str = field(HEX256)
    public_key: bytes = field(BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle(Document):
    """The CAs are PEM, one certificate each; during a rotation there are two."""

    NOUN: ClassVar[str] = "trust-bundle"

    trust_domain: str = field(TRUST_DOMAIN)
    sequence: int = field(int64(1))
    issue_time: datetime = field(TIME)
    keys: tuple[TrustedKey, ...] = field(each(record(TrustedKey), key=lambda key: key.key_id, maximum=256))
    services_ca: tuple[str, ...] = field(each(_PEM, maximum=4, least=1))
    agents_ca: tuple[str, ...] = field(each(_PEM, maximum=4, least=1))
    witnesses: tuple[Witness, ...] = field(each(record(Witness), key=lambda witness: witness.key_id, maximum=64))

    def keys_for(self, purpose: str, when: datetime) -> dict[str, Ed25519PublicKey]:
        """Keys that may sign for a purpose at a time, by id, as `dsse.verify` takes them."""
        return {
            key.key_id: decode_key(key.public_key) for key in self.keys if key.purpose == purpose and key.valid_at(when)
        }


def open_bundle(
    envelope: bytes, roots: Iterable[Ed25519PublicKey], newest: int = 0, trust_domain: str | None = None
) -> TrustBundle:
    """Verifies a bundle against the root keys and the highest sequence seen so far.

    Raises DocumentError, besides dsse.verify's reasons with BUNDLE_ROLLBACK or WRONG_TRUST_DOMAIN.
    """
    bundle = TrustBundle.from_bytes(dsse.verify(envelope, TrustBundle.NOUN, roots)[0])
    if trust_domain is not None and bundle.trust_domain != trust_domain:
        raise DocumentError("WRONG_TRUST_DOMAIN", f"the bundle is for {bundle.trust_domain}", "trustDomain")
    if bundle.sequence < newest:
        raise DocumentError("BUNDLE_ROLLBACK", f"lower than {newest}, which was seen before", "sequence")
    return bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationCertificate(Document):
    """Says that a key made on a node signs provenance for an agent. Logged; its place in the log proves when it held."""

    NOUN: ClassVar[str] = "attestation-certificate"

    agent: str = field(AGENT)
    serial: int = field(int64(1))
    key_id: str = field(HEX256)
    public_key: bytes = field(BYTES)
    not_before: datetime = field(TIME)
    not_after: datetime = field(TIME)

    def check(self) -> None:
        if dsse.key_id(decode_key(self.public_key)) != self.key_id:
            raise DocumentError("KEY_ID", "is not the key's", "keyId")

    def key(self) -> Ed25519PublicKey:
        return decode_key(self.public_key)
