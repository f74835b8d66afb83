"""Every key of a local stack, made once. In production `animus pki` makes the same things on an offline machine."""

from __future__ import annotations

import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from animus_cli.stack.layout import TRUST_DOMAIN, Layout
from animus_client.auth import AUDIENCE, STACK_ISSUER
from animus_client.issuer import LocalIssuer
from animus_kit import pki
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey

SERVICES = ("catalog", "orchestrator", "policy", "lineage", "audit")
SIGNING_LIFETIME = timedelta(days=3650)


def make(layout: Layout, now: datetime) -> None:
    """Makes what is missing. A folder that has its trust bundle is complete and stays as it is."""
    if layout.trust_bundle.exists():
        return
    root = pki.new_signing_key()
    services, agents = pki.new_ca("Animus services", now), pki.new_ca("Animus agents", now)
    contract, enrollment = pki.new_signing_key(), pki.new_signing_key()
    for name in SERVICES:
        leaf = pki.issue_service(
            services, f"service/{name}", (f"{name}.{TRUST_DOMAIN}", "localhost"), TRUST_DOMAIN, now
        )
        # With its issuer: a joining node finds there the certificate that its token pins.
        _write_leaf(layout, name, pki.Leaf(leaf.certificate_pem + services.certificate_pem, leaf.key_pem))
    gateway = pki.issue_service(services, "gateway", (f"gateway.{TRUST_DOMAIN}",), TRUST_DOMAIN, now)
    _write_leaf(layout, "gateway", gateway)
    public = pki.issue_service(services, "gateway", ("localhost",), TRUST_DOMAIN, now, addresses=("127.0.0.1", "::1"))
    _write_leaf(layout, "public", public)
    pki.write_public(layout.services_ca, services.certificate_pem)
    pki.write_public(layout.agents_ca, agents.certificate_pem)
    pki.write_private(layout.pki / "agents-ca.key", agents.key_pem)
    # Kept apart, as in production, where neither is online.
    pki.write_private(layout.pki / "offline" / "services-ca.key", services.key_pem)
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


def _write_leaf(layout: Layout, name: str, leaf: pki.Leaf) -> None:
    certificate, key = layout.tls(name)
    pki.write_public(certificate, leaf.certificate_pem)
    pki.write_private(key, leaf.key_pem)


def _issuer(layout: Layout) -> None:
    issuer = LocalIssuer.generate(STACK_ISSUER, AUDIENCE)
    pki.write_private(layout.issuer_key, issuer.key_pem())
    pki.write_public(layout.jwks, issuer.jwks())


def missing_folder(path: Path, mode: int = 0o711) -> Path:
    """Makes a folder that others may pass through but not list."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path
