"""mTLS from files that may change, and who is on the other side.

A server reads its files again when one of them changed, at the next handshake (gRPC's dynamic credentials); a client
dials again (redial.py). Peers are named by the SPIFFE id in their certificate's URI SAN.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from animus_kit.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """Paths of a process's certificate chain, its key, and the CA that it accepts peers from. All PEM."""

    cert: Path
    key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """(chain, key, ca)."""
        return self.cert.read_bytes(), self.key.read_bytes(), self.ca.read_bytes()

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when any of the files was replaced or written."""
        states = (path.stat() for path in (self.cert, self.key, self.ca))
        return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


@dataclass(frozen=True)
class Peer:
    """Who called, by certificate.

    kind: ``service``, ``gateway``, ``agent``, or ``none`` where the listener asks for no certificate. name: the
    service's name or the agent's id; empty otherwise.
    """

    kind: str
    name: str
    spiffe_id: str
    serial: str = ""

    @property
    def label(self) -> str:
        """As permission tables and events write it: ``service/catalog``, ``gateway``, ``agent/node-1``."""
        return f"{self.kind}/{self.name}" if self.name else self.kind


NOBODY = Peer("none", "", "")


class _Reloading:
    """Serves server configurations to gRPC: a new one only when a file changed, the last good one when it is broken."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamp: object = None
        self.initial = self._load()

    def _load(self) -> grpc.ServerCertificateConfiguration:
        stamp = self._files.stamp()
        chain, key, ca = self._files.read()
        check_pair(chain, key)
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca)
        self._stamp = stamp
        return configuration

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                if self._files.stamp() == self._stamp:
                    return None
                return self._load()
            except (OSError, ValueError) as error:
                # A rotation in progress; the next handshake looks again.
                log.warning("certificate not reloaded", cert=str(self._files.cert), error=str(error))
                return None


def check_pair(chain: bytes, key: bytes) -> None:
    """gRPC takes a key of another certificate without a word and then fails every handshake. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if load_pem_private_key(key, None).public_key() != x509.load_pem_x509_certificate(chain).public_key():
        raise ValueError("the key is not the certificate's")


def server_credentials(files: TlsFiles, *, require_client: bool = True) -> grpc.ServerCredentials:
    """Credentials that follow the files. Without require_client only the enrolment listener is built."""
    reloading = _Reloading(files)
    return grpc.dynamic_ssl_server_credentials(
        reloading.initial, reloading, require_client_authentication=require_client
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Client credentials from the files as they are now."""
    chain, key, ca = files.read()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=chain)


def peer_identity(auth_context: Mapping[str, Sequence[Any]], trust_domain: str) -> Peer | None:
    """Names the peer from gRPC's auth context.

    Returns None when there is a certificate that carries no SPIFFE id of this trust domain and a known kind; NOBODY
    when there is no certificate.
    """
    if "x509_pem_cert" not in auth_context:
        return NOBODY
    prefix = f"spiffe://{trust_domain}/"
    identities = [_text(value) for value in auth_context.get("peer_spiffe_id", ())]
    # A certificate with two identities is nobody's: the one checked might not be the one meant.
    if len(identities) != 1 or not identities[0].startswith(prefix):
        return None
    kind, _, name = identities[0].removeprefix(prefix).partition("/")
    if kind == "gateway" and not name:
        return Peer("gateway", "", identities[0])
    if kind in ("service", "agent") and name and "/" not in name:
        return Peer(kind, name, identities[0], _serial(auth_context) if kind == "agent" else "")
    return None


def _serial(auth_context: Mapping[str, Sequence[Any]]) -> str:
    # Only agents' serials decide anything (renewal), and parsing costs; so it is done for them alone.
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(_bytes(auth_context["x509_pem_cert"][0]))
    return format(certificate.serial_number, "x")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
