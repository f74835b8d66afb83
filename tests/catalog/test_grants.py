"""The trust bundle that grants are verified with."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from animus_catalog.blobs.grants import Grants, TrustedKeys, read_roots
from animus_catalog.domain.errors import GrantExpired, GrantInvalid
from animus_kit import pki as kit_pki
from animus_kit.clock import SystemClock
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey
from animus_kit.documents.contract import Grant
from animus_kit.documents.errors import DocumentError
from animus_kit.testing.pki import TRUST_DOMAIN

NOW = datetime.now(UTC)


class Bundles:
    """Writes bundles signed by one root."""

    def __init__(self, folder, pki):
        self.path = folder / "bundle"
        self.root = kit_pki.new_signing_key()
        self._pki = pki

    def document(self, sequence, *keys, purpose="contract"):
        span = (NOW - timedelta(hours=1), NOW + timedelta(days=1))
        return TrustBundle(
            trust_domain=TRUST_DOMAIN,
            sequence=sequence,
            issue_time=NOW,
            keys=tuple(TrustedKey.of(key.public_key(), purpose, *span) for key in keys),
            services_ca=(self._pki.services.certificate_pem.decode(),),
            agents_ca=(self._pki.agents.certificate_pem.decode(),),
            witnesses=(),
        )

    def write(self, document, root=None):
        # Replaced as a whole, as an operator does it.
        new = self.path.with_suffix(".new")
        new.write_bytes(dsse.sign(document.to_bytes(), "trust-bundle", root or self.root))
        os.replace(new, self.path)

    def keys(self):
        return TrustedKeys(self.path, [self.root.public_key()], TRUST_DOMAIN)


@pytest.fixture
def bundles(tmp_path, pki):
    return Bundles(tmp_path, pki)


def grant(key, **changes):
    values = {
        "id": "8a4b2a06-0d0f-4d36-a4a5-5d4d1f0c9b5e",
        "project": "projects/p",
        "attempt": "projects/p/runs/r/steps/s/attempts/1",
        "agent": "agents/node-1",
        "readable_manifests": (),
        "readable_images": (),
        "write_bytes": 1,
        "write_blobs": 1,
        "issue_time": NOW,
        "expire_time": NOW + timedelta(hours=1),
        **changes,
    }
    return dsse.sign(Grant(**values).to_bytes(), Grant.NOUN, key)


def test_a_rotated_key_is_taken_without_a_restart(bundles):
    first, second = kit_pki.new_signing_key(), kit_pki.new_signing_key()
    bundles.write(bundles.document(1, first))
    grants = Grants(bundles.keys(), SystemClock())
    assert grants.open(grant(first), "node-1").project == "projects/p"
    with pytest.raises(GrantInvalid):
        grants.open(grant(second), "node-1")
    bundles.write(bundles.document(2, second))
    assert grants.open(grant(second), "node-1")
    with pytest.raises(GrantInvalid):
        grants.open(grant(first), "node-1")


def test_a_bundle_never_goes_back(bundles):
    first, second = kit_pki.new_signing_key(), kit_pki.new_signing_key()
    bundles.write(bundles.document(2, second))
    keys = bundles.keys()
    for bad in (bundles.document(1, first), dataclasses.replace(bundles.document(3, first), trust_domain="other.test")):
        bundles.write(bad)
        assert keys.bundle().sequence == 2
    bundles.write(bundles.document(3, first), root=kit_pki.new_signing_key())
    assert keys.bundle().sequence == 2
    bundles.path.unlink()
    assert keys.bundle().sequence == 2
    bundles.write(bundles.document(3, first))
    assert keys.bundle().sequence == 3


def test_a_key_of_another_purpose_signs_no_grant(bundles):
    key = kit_pki.new_signing_key()
    bundles.write(bundles.document(1, key, purpose="checkpoint"))
    with pytest.raises(GrantInvalid):
        Grants(bundles.keys(), SystemClock()).open(grant(key), "node-1")


def test_a_grant_ends(bundles):
    key = kit_pki.new_signing_key()
    bundles.write(bundles.document(1, key))
    past = NOW - timedelta(minutes=2)
    ended = grant(key, issue_time=past, expire_time=past + timedelta(minutes=1))
    with pytest.raises(GrantExpired):
        Grants(bundles.keys(), SystemClock()).open(ended, "node-1")


def test_a_start_without_a_good_bundle_fails(bundles):
    with pytest.raises(OSError):
        bundles.keys()
    bundles.write(bundles.document(1), root=kit_pki.new_signing_key())
    with pytest.raises(DocumentError):
        bundles.keys()


def test_roots_are_public_keys_in_pem(tmp_path):
    file = tmp_path / "roots.pem"
    roots = [kit_pki.new_signing_key().public_key() for _ in range(2)]
    file.write_bytes(b"".join(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in roots))
    assert [kit_pki.key_id(key) for key in read_roots(file)] == [kit_pki.key_id(key) for key in roots]
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Ed25519"):
        read_roots(file)
