"""Every key of a local stack, made once, and its certificates, made again before they expire. In production `animus pki`
makes the same things on an offline machine."""

from __future__ import annotations

import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from animus_cli.stack.layout import TRUST_DOMAIN, Layout
from animus_client.auth import AUDIENCE, STACK_ISSUER
from animus_client.issuer import LocalIssuer
from animus_kit import pki
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey

SERVICES = ("catalog", "orchestrator", "policy", "lineage", "audit")
LEAVES = (*SERVICES, "gateway", "public")
SIGNING_LIFETIME = timedelta(days=3650)


def make(layout: Layout, now: datetime) -> None:
    """Makes what is missing, and certificates that have less than a third of their life left. A folder that has its trust
    bundle is complete, and every key in it stays."""
    if layout.trust_bundle.exists():
        _renew(layout, now)
        return
    root = pki.new_signing_key()
    services, agents = pki.new_ca("Animus services", now), pki.new_ca("Animus agents", now)
    contract, enrollment = pki.new_signing_key(), pki.new_signing_key()
    for name in LEAVES:
        _issue(layout, name, services, now)
    pki.write_public(layout.services_ca, services.certificate_pem)
    pki.write_public(layout.agents_ca, agents.certificate_pem)
    pki.write_private(layout.pki / "agents-ca.key", agents.key_pem)
    # Kept apart, as in production, where neither is online.
    pki.write_private(_services_ca_key(layout), services.key_pem)
    pki.write_private(layout.pki / "offline" / "root.key", pki.key_pem(root))
    pki.write_public(layout.pki / "root.pub", public_pem(root.public_key()))
    pki.write_private(layout.pki / "contract.key", pki.key_pem(contract))
    pki.write_private(layout.pki / "attestation.key", pki.key_pem(enrollment))
    pki.write_private(layout.actor_key, secrets.token_bytes(32))
    _issuer(layout)
    keys = [
        TrustedKey.of(key.public_key(), purpose, now - pki.BACKDATE, now + SIGNING_LIFETIME)
        for key, purpose in ((contract, "contract"), (enrollment, "attestation"))
    ]
    bundle = TrustBundle(
        trust_domain=TRUST_DOMAIN,
        sequence=1,
        issue_time=now,
        keys=tuple(sorted(keys, key=lambda key: key.key_id)),
        services_ca=(services.certificate_pem.decode(),),
        agents_ca=(agents.certificate_pem.decode(),),
        witnesses=(),
    )
    # Last: its presence says that everything else is there.
    pki.write_public(layout.trust_bundle, dsse.sign(bundle.to_bytes(), TrustBundle.NOUN, root))


def hand_over(layout: Layout, uid: int, gid: int) -> None:
    """Gives the online keys to the account that services run as; the offline ones stay with whoever made them."""
    offline = layout.pki / "offline"
    for path in (layout.pki, *layout.pki.rglob("*")):
        if path != offline and offline not in path.parents:
            os.chown(path, uid, gid)


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _renew(layout: Layout, now: datetime) -> None:
    late = [name for name in LEAVES if _expires(layout.tls(name)[0]) < now + pki.SERVICE_LIFETIME / 3]
    if late:
        ca = pki.load_ca(layout.services_ca.read_bytes(), _services_ca_key(layout).read_bytes())
        for name in late:
            _issue(layout, name, ca, now)


def _expires(certificate: Path) -> datetime:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _issue(layout: Layout, name: str, ca: pki.CertificateAuthority, now: datetime) -> None:
    if name == "public":
        leaf = pki.issue_service(ca, "gateway", ("localhost",), TRUST_DOMAIN, now, addresses=("127.0.0.1", "::1"))
    elif name == "gateway":
        leaf = pki.issue_service(ca, "gateway", (f"gateway.{TRUST_DOMAIN}",), TRUST_DOMAIN, now)
    else:
        leaf = pki.issue_service(ca, f"service/{name}", (f"{name}.{TRUST_DOMAIN}", "localhost"), TRUST_DOMAIN, now)
        # With its issuer: a joining node finds there the certificate that its token pins.
        leaf = pki.Leaf(leaf.certificate_pem + ca.certificate_pem, leaf.key_pem)
    certificate, key = layout.tls(name)
    pki.write_public(certificate, leaf.certificate_pem)
    pki.write_private(key, leaf.key_pem)


def _services_ca_key(layout: Layout) -> Path:
    return layout.pki / "offline" / "services-ca.key"


def _issuer(layout: Layout) -> None:
    issuer = LocalIssuer.generate(STACK_ISSUER, AUDIENCE)
    pki.write_private(layout.issuer_key, issuer.key_pem())
    pki.write_public(layout.jwks, issuer.jwks())


def missing_folder(path: Path, mode: int = 0o711) -> Path:
    """Makes a folder that others may pass through but not list."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path
