"""mTLS: credentials out of files that are read again when they change, and who the peer is."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from animus_kit.errors import Unauthenticated
from animus_kit.log import get_logger

log = get_logger(__name__)

_SPIFFE = re.compile(
    r"spiffe://(?P<domain>[a-z0-9.-]{1,255})/(?:(?P<gateway>gateway)|service/(?P<service>[a-z][a-z0-9-]{0,62})"
    r"|agent/(?P<agent>[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?))"
)


class PeerUnknown(Unauthenticated):
    """The peer's certificate does not say who it is in a way that we know."""

    reason = "PEER_UNKNOWN"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: a certificate with its chain, its key, and the CA that the other side's certificate must be from."""

    cert: Path
    key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """(key, cert, ca)"""
        return self.key.read_bytes(), self.cert.read_bytes(), self.ca.read_bytes()

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Another value when one of the files was replaced or written."""
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in (p.stat() for p in (self.cert, self.key, self.ca)))


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection. kind: service, gateway, agent. name: `catalog`, `gateway`, an agent's id."""

    spiffe_id: str
    kind: str
    name: str

    @property
    def key(self) -> str:
        """As permission tables write it: `gateway`, `service/catalog`, `agent`."""
        return f"service/{self.name}" if self.kind == "service" else self.kind

    @property
    def actor(self) -> str:
        """As events write it: `gateway`, `service/catalog`, `agent/<id>`."""
        return self.kind if self.kind == "gateway" else f"{self.kind}/{self.name}"


def server_credentials(files: TlsFiles, require_client: bool = True) -> grpc.ServerCredentials:
    """Credentials for a listener, sync or aio. At each handshake the files are looked at, and read if they changed.

    A replacement that is half written is not used: what served before goes on serving, and a warning says so. Raises
    OSError or ValueError when the files cannot be used at the start. require_client=False is for the enrolment
    listener alone.
    """
    lock = threading.Lock()

    def read() -> grpc.ServerCertificateConfiguration:
        key, cert, ca = files.read()
        _check_pair(key, cert)
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca if require_client else None)

    used = files.stamp()
    first = read()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        with lock:
            try:
                stamp = files.stamp()
                if stamp == used:
                    return None
                fresh = read()
                used = stamp
                log.info("certificate replaced", cert=str(files.cert))
                return fresh
            except (OSError, ValueError) as e:
                log.warning("certificate not reloaded", cert=str(files.cert), error=str(e))
                return None

    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=require_client)


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials for a channel. Channels cannot reload: `animus_kit.channel.dial` makes a new one when files change."""
    key, cert, ca = files.read()
    _check_pair(key, cert)
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def peer_identity(context: Any) -> Peer:
    """Who called, by the URI SAN of its certificate: exactly one, a SPIFFE id of a form that we know.

    context: grpc's ServicerContext. The certificate was already checked against the listener's CA. Raises PeerUnknown.
    """
    return parse_peer([value.decode("utf-8", "replace") for value in context.auth_context().get("peer_spiffe_id", ())])


def parse_peer(spiffe_ids: list[str]) -> Peer:
    """The same from the ids themselves. Raises PeerUnknown."""
    if len(spiffe_ids) != 1:
        raise PeerUnknown("a client certificate with one SPIFFE id is needed")
    match = _SPIFFE.fullmatch(spiffe_ids[0])
    if match is None:
        raise PeerUnknown("the client certificate's SPIFFE id has no known form")
    if match["gateway"]:
        return Peer(match[0], "gateway", "gateway")
    if match["service"]:
        return Peer(match[0], "service", match["service"])
    return Peer(match[0], "agent", match["agent"])


def trust_domain_of(peer: Peer) -> str:
    return peer.spiffe_id.removeprefix("spiffe://").partition("/")[0]


def _check_pair(key: bytes, cert: bytes) -> None:
    """gRPC would accept a key of another certificate and then fail every handshake in silence."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    public = x509.load_pem_x509_certificate(cert).public_key()
    if load_pem_private_key(key, None).public_key() != public:
        raise ValueError("the key does not belong to the certificate")
