"""The keys of a local stack: made once, with certificates that are made again in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from animus_cli.stack import keys
from animus_cli.stack.layout import Layout
from animus_kit import pki

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def leaves(layout: Layout) -> dict[str, x509.Certificate]:
    return {name: x509.load_pem_x509_certificate(layout.tls(name)[0].read_bytes()) for name in keys.LEAVES}


def others(layout: Layout) -> dict[Path, bytes]:
    every = {path for name in keys.LEAVES for path in layout.tls(name)}
    return {path: path.read_bytes() for path in layout.pki.rglob("*") if path.is_file() and path not in every}


def test_a_later_start_makes_certificates_again_and_nothing_else(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    keys.make(layout, NOW)
    first, rest = leaves(layout), others(layout)
    keys.make(layout, NOW + pki.SERVICE_LIFETIME * 0.6)
    assert leaves(layout) == first
    later = NOW + pki.SERVICE_LIFETIME * 0.7
    keys.make(layout, later)
    again = leaves(layout)
    assert others(layout) == rest
    for name in keys.LEAVES:
        assert again[name].not_valid_after_utc - later >= pki.SERVICE_LIFETIME - timedelta(seconds=1)
        san = x509.SubjectAlternativeName
        assert again[name].extensions.get_extension_for_class(san) == first[name].extensions.get_extension_for_class(
            san
        )
        assert again[name].issuer == first[name].issuer
        # A joining node finds the issuer behind a service's certificate.
        chain = x509.load_pem_x509_certificates(layout.tls(name)[0].read_bytes())
        assert len(chain) == (2 if name in keys.SERVICES else 1)
