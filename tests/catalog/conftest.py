"""A running catalog: real PostgreSQL, real mTLS, a folder of blobs. Only policy and the tokens' issuer are stand-ins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from animus_catalog.__main__ import assemble
from animus_catalog.settings import Settings
from animus_kit import pki as kit_pki
from animus_kit.clock import SystemClock
from animus_kit.db.denials import Denials
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey
from animus_kit.server.authz import denied
from animus_kit.server.door import Door
from animus_kit.server.token import Claims, TokenInvalid
from animus_kit.testing.pki import TRUST_DOMAIN, started
from tests.catalog.world import World


class Subjects:
    """Stands in for the token verifier: a token is the subject's name."""

    def verify(self, token: str) -> Claims:
        if not token.isalpha():
            raise TokenInvalid("not a token")
        now = datetime.now(UTC)
        return Claims(subject=token, groups=(), issued_at=now, expires=now + timedelta(minutes=5))


@dataclass
class Members:
    """Stands in for policy: who may do everything in which projects; root may do everything everywhere."""

    projects_of: dict[str, set[str]]

    def check(self, ctx, permission, project) -> None:
        if ctx.subject != "root" and project not in self.projects_of.get(ctx.subject, ()):
            raise denied(permission, project)

    def projects(self, ctx, permission):
        return None if ctx.subject == "root" else frozenset(self.projects_of.get(ctx.subject, ()))


@dataclass(frozen=True)
class Trust:
    """A root, the contract key that it vouches for, and the files that say so."""

    contract_key: object
    bundle: object
    root: object


@pytest.fixture(scope="session")
def trust(pki, tmp_path_factory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    root, contract, other = (kit_pki.new_signing_key() for _ in range(3))
    now = datetime.now(UTC)
    span = (now - timedelta(hours=1), now + timedelta(days=1))
    document = TrustBundle(
        trust_domain=TRUST_DOMAIN,
        sequence=1,
        issue_time=now,
        keys=(
            TrustedKey.of(contract.public_key(), "contract", *span),
            TrustedKey.of(other.public_key(), "checkpoint", *span),
        ),
        services_ca=(pki.services.certificate_pem.decode(),),
        agents_ca=(pki.agents.certificate_pem.decode(),),
        witnesses=(),
    )
    (folder / "bundle").write_bytes(dsse.sign(document.to_bytes(), "trust-bundle", root))
    (folder / "root.pem").write_bytes(
        root.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return Trust(contract, folder / "bundle", folder / "root.pem")


@pytest.fixture(scope="module")
def settings(database, pki, trust, tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("catalog")
    files, agents = pki.files("service/catalog"), pki.files("service/catalog", accept="agents")
    return Settings(
        dsn=database.dsn("catalog"),
        tls_cert=files.cert,
        tls_key=files.key,
        tls_ca=files.ca,
        agents_ca=agents.ca,
        actor_key=folder / "unused",
        oidc_issuer="",
        oidc_keys="",
        policy_target="",
        audit_target="",
        audit_stream_target="",
        listen="127.0.0.1:0",
        stream_listen="127.0.0.1:0",
        agent_blob_listen="127.0.0.1:0",
        blob_store=f"file://{folder}/blobs",
        trust_bundle=trust.bundle,
        root_key=trust.root,
        workers=4,
        blob_workers=4,
    )


@pytest.fixture(scope="module")
def catalog(database, pki, trust, settings):
    """One process for a module. Tests share it: each makes a project of its own."""
    engine = database.engine("catalog", pool=12)
    members = Members({})
    clock = SystemClock()
    denials = Denials(engine, "catalog", clock)

    def door(rows) -> Door:
        return Door("catalog", TRUST_DOMAIN, rows, Subjects(), members, denials, b"k" * 32)

    process, staging = assemble(settings, engine, clock, members, door)
    with started(process):
        yield World(process, pki, engine, members, trust, settings, staging)


@pytest.fixture
def world(catalog, request) -> World:
    """The catalog with a new project, whose only member is alice."""
    made = dataclasses.replace(catalog)
    made.new_project("alice")
    return made
