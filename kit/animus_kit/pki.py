"""Keys and certificates: an offline root, two certificate authorities, leaves, and signing keys.

TLS keys are ECDSA P-256; documents are signed with Ed25519 keys, one purpose each. A service's certificate carries its
SPIFFE id as URI SAN and the DNS SAN ``<service>.<trust domain>``, because Python's gRPC client can check only the
latter. An agent's carries the URI SAN alone and the usage clientAuth alone, so that it can never serve.

Formats: X.509 (RFC 5280), PKCS #8 and PKCS #10 in PEM, SPIFFE-ID 1.0.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A verifier's clock may be behind the issuer's by this much.
BACKDATE = timedelta(hours=1)
CA_LIFETIME = timedelta(days=3650)
SERVICE_LIFETIME = timedelta(days=90)
AGENT_LIFETIME = timedelta(hours=24)


class PkiError(ValueError):
    """A key, certificate or request that cannot be used, with the reason in the message."""


@dataclass(frozen=True)
class CertificateAuthority:
    """A self-signed CA and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @property
    def pin(self) -> str:
        return spki_pin(self.certificate)


@dataclass(frozen=True)
class Leaf:
    """A private key and the certificate chain for it, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


def new_ca(common_name: str, now: datetime, lifetime: timedelta = CA_LIFETIME) -> CertificateAuthority:
    """Makes a self-signed CA that may sign leaves only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(certificate, key)


def load_ca(certificate_pem: bytes, ca_key_pem: bytes) -> CertificateAuthority:
    """Reads a CA. Raises PkiError when the key is not the certificate's."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    key = serialization.load_pem_private_key(ca_key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("a CA key must be ECDSA P-256")
    if _spki(key.public_key()) != _spki(certificate.public_key()):
        raise PkiError("the CA key does not belong to the CA certificate")
    return CertificateAuthority(certificate, key)


def issue_service(
    ca: CertificateAuthority,
    path: str,
    dns_names: tuple[str, ...],
    trust_domain: str,
    now: datetime,
    lifetime: timedelta = SERVICE_LIFETIME,
    addresses: tuple[str, ...] = (),
) -> Leaf:
    """Issues a certificate for client and server use.

    path: the SPIFFE path, for example ``service/catalog`` or ``gateway``. addresses: IP SANs, which only the gateway's
    public listener needs.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/{path}")]
    names += [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = _issue(ca, key.public_key(), names, usages, now, lifetime)
    return Leaf(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


def new_csr() -> tuple[bytes, bytes]:
    """Makes an ECDSA P-256 key and a request for it: (key PEM, PKCS #10 PEM). The issuer sets every field itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def csr_public_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose self-signature holds. Nothing else is taken from it. Raises PkiError."""
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise PkiError(f"not a PKCS #10 request: {error}") from error
    if not valid:
        raise PkiError("the request's signature does not hold")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError("the request's key must be ECDSA P-256")
    return key


def sign_agent(
    ca: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    agent_id: str,
    trust_domain: str,
    now: datetime,
    lifetime: timedelta = AGENT_LIFETIME,
) -> bytes:
    """Issues an agent's client certificate (PEM): URI SAN only, clientAuth only."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/agent/{agent_id}")]
    certificate = _issue(ca, public_key, names, [ExtendedKeyUsageOID.CLIENT_AUTH], now, lifetime)
    return certificate.public_bytes(serialization.Encoding.PEM)


def spki_pin(certificate: x509.Certificate) -> str:
    """SHA-256 of the subject public key info, base64url without padding (as RFC 7469 pins, but URL-safe)."""
    digest = hashlib.sha256(_spki(certificate.public_key())).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def new_signing_key() -> Ed25519PrivateKey:
    """A key that signs documents."""
    return Ed25519PrivateKey.generate()


def load_signing_key(pem: bytes) -> Ed25519PrivateKey:
    """Reads a document-signing key. Raises PkiError for any other kind."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise PkiError("a signing key must be Ed25519")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the SPKI, lower-case hex: how a trust bundle and a DSSE signature name a key."""
    return hashlib.sha256(_spki(key)).hexdigest()


def raw_public_key(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of RFC 8032."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """PKCS #8, unencrypted: what protects it is the file's mode."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 in one step: whoever reads sees the old content or the new."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """As write_private, mode 0644."""
    _write(path, data, 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)


def _issue(
    ca: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return (
        _builder(x509.Name([]), ca.certificate.subject, public_key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # The subject is empty, so the names are critical (RFC 5280 §4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(authority, critical=False)
        .sign(ca.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _spki(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
