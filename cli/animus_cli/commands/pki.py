"""animus pki: a small offline authority. Run it on a machine that is not part of the installation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import Stop, answer, command, group

app = group("An offline authority: root, certificate authorities, certificates, signing keys, trust bundle.")
Dir = Annotated[Path, typer.Option("--dir", help="The authority's folder. Keep it offline.")]
Domain = Annotated[str, typer.Option("--trust-domain")]
_FOLDER = Path("animus-pki")
_PURPOSES = ("contract", "attestation")


@command(app)
def init(dir: Dir = _FOLDER, trust_domain: Domain = "animus.local") -> None:
    """Make root, both certificate authorities, signing keys, and the first trust bundle."""
    from animus_kit import pki

    if (dir / "root.key").exists():
        raise Stop(exits.ERROR, f"{dir} has a root already; it is never overwritten", "PKI_EXISTS")
    now = datetime.now(UTC)
    dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = pki.new_signing_key()
    pki.write_private(dir / "root.key", pki.key_pem(root))
    pki.write_public(dir / "root.pub", _public_pem(root))
    (dir / "trust-domain").write_text(trust_domain + "\n")
    for name in ("services", "agents"):
        ca = pki.new_ca(f"Animus {name}", now)
        pki.write_public(dir / f"{name}-ca.crt", ca.certificate_pem)
        pki.write_private(dir / f"{name}-ca.key", ca.key_pem)
    keys = {purpose: pki.new_signing_key() for purpose in _PURPOSES}
    for purpose, key in keys.items():
        pki.write_private(dir / f"{purpose}.key", pki.key_pem(key))
    _write_bundle(dir, 1, now, [_trusted(key.public_key(), purpose, now) for purpose, key in keys.items()])
    rows = [("root", pki.key_id(root.public_key())), ("trust domain", trust_domain), ("folder", str(dir))]
    answer(dict(rows), lambda: show.pairs(rows))


@command(app)
def issue(
    name: Annotated[str, typer.Argument(help="catalog, orchestrator, policy, lineage, audit, gateway or public.")],
    dir: Dir = _FOLDER,
    dns: Annotated[list[str], typer.Option(help="Another DNS name; may be repeated.")] = [],
    ip: Annotated[list[str], typer.Option(help="An IP address; may be repeated.")] = [],
    days: Annotated[int, typer.Option(min=1, max=397)] = 90,
) -> None:
    """Issue a certificate for one process: DIR/NAME/tls.crt and tls.key. `public` is what the gateway shows to clients."""
    from animus_kit import pki

    domain = _domain(dir)
    services = ("catalog", "orchestrator", "policy", "lineage", "audit")
    if name not in (*services, "gateway", "public"):
        raise Stop(exits.USAGE, f"no process {name!r}", "USAGE")
    ca = pki.load_ca((dir / "services-ca.crt").read_bytes(), (dir / "services-ca.key").read_bytes())
    path = f"service/{name}" if name in services else "gateway"
    names = tuple(dns) if name == "public" else (f"{name}.{domain}", *dns)
    if not names and not ip:
        raise Stop(exits.USAGE, "a public certificate needs --dns or --ip", "USAGE")
    leaf = pki.issue_service(ca, path, names, domain, datetime.now(UTC), timedelta(days=days), addresses=tuple(ip))
    pki.write_public(dir / name / "tls.crt", leaf.certificate_pem)
    pki.write_private(dir / name / "tls.key", leaf.key_pem)
    answer({"certificate": str(dir / name / "tls.crt")}, lambda: print(dir / name / "tls.crt"))


@command(app)
def rotate(purpose: Annotated[str, typer.Argument(help="contract or attestation.")], dir: Dir = _FOLDER) -> None:
    """Make the next signing key and a bundle with both. Hand out the bundle first; use the key when every agent has it."""
    from animus_kit import pki

    if purpose not in _PURPOSES:
        raise Stop(exits.USAGE, f"no purpose {purpose!r}: contract, attestation", "USAGE")
    bundle, _ = _bundle(dir)
    current, following = dir / f"{purpose}.key", dir / f"{purpose}.next.key"
    # In this order, each step known by what is there: a rotation that was cut off is gone on with.
    if not following.exists():
        pki.write_private(following, pki.key_pem(pki.new_signing_key()))
    key = pki.load_signing_key(following.read_bytes()).public_key()
    sequence = bundle.sequence
    if pki.key_id(key) not in {known.key_id for known in bundle.keys}:
        now = datetime.now(UTC)
        sequence = _write_bundle(dir, sequence + 1, now, [*bundle.keys, _trusted(key, purpose, now)])
    if current.exists():
        current.replace(dir / f"{purpose}.previous.key")
    following.replace(current)
    answer({"sequence": sequence}, lambda: print(f"trust bundle {sequence}"))


@command(app, "show")
def show_(dir: Dir = _FOLDER) -> None:
    """The root's fingerprint, which everybody who verifies must know, and what the bundle holds."""
    bundle, root = _bundle(dir)
    keys = [(key.purpose, key.key_id[:16]) for key in bundle.keys]

    def human() -> None:
        show.pairs([("root", root), ("trust domain", bundle.trust_domain), ("bundle", bundle.sequence)])
        print()
        show.table(["purpose", "key"], keys)

    answer({"root": root, "trustDomain": bundle.trust_domain, "sequence": bundle.sequence, "keys": keys}, human)


def _trusted(key: Any, purpose: str, now: datetime) -> Any:
    from animus_kit import pki
    from animus_kit.documents.bundle import TrustedKey

    return TrustedKey.of(key, purpose, now - pki.BACKDATE, now + timedelta(days=730))


def _write_bundle(dir: Path, sequence: int, now: datetime, keys: list[Any]) -> int:
    """keys: every one that has signed anything. A retired one stays as it was, for verifying that."""
    from animus_kit import pki
    from animus_kit.documents import dsse
    from animus_kit.documents.bundle import TrustBundle

    bundle = TrustBundle(
        trust_domain=_domain(dir),
        sequence=sequence,
        issue_time=now,
        keys=tuple(sorted(keys, key=lambda key: key.key_id)),
        services_ca=((dir / "services-ca.crt").read_text(),),
        agents_ca=((dir / "agents-ca.crt").read_text(),),
        witnesses=(),
    )
    root = pki.load_signing_key((dir / "root.key").read_bytes())
    pki.write_public(dir / "trust-bundle.json", dsse.sign(bundle.to_bytes(), TrustBundle.NOUN, root))
    return sequence


def _bundle(dir: Path) -> tuple[Any, str]:
    """Verified. Answers the bundle and the root's fingerprint."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from animus_kit import pki
    from animus_kit.documents import dsse
    from animus_kit.documents.bundle import TrustBundle

    _domain(dir)
    root: Any = load_pem_public_key((dir / "root.pub").read_bytes())
    fingerprint = pki.key_id(root)
    payload, _ = dsse.verify((dir / "trust-bundle.json").read_bytes(), TrustBundle.NOUN, {fingerprint: root})
    return TrustBundle.from_bytes(payload), fingerprint


def _domain(dir: Path) -> str:
    try:
        return (dir / "trust-domain").read_text().strip()
    except FileNotFoundError:
        raise Stop(exits.ERROR, f"{dir} is no authority's folder", "PKI_MISSING", "animus pki init") from None


def _public_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
