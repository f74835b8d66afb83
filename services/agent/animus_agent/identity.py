"""The node's keys and certificates, as files, and how it gets them.

    identity/current -> gen-<n>    tls.key, tls.crt: swapped together by one rename
    identity/attestation.key       Ed25519, signs provenance; never leaves the node
    identity/attestation.cert      its certificate, a signed document
    identity/services-ca.pem       whom to believe as control plane
    identity/bundle                the newest trust bundle, a signed document
    identity/agent.json            {agent, dispatch, blobs, trust domain}

A join token is `animus1.<id>.<secret>.<pin>`: the pin is the SHA-256 of the services CA's SPKI. The agent looks at the
server's chain, finds the certificate with that pin, and only then opens a channel that trusts it alone and sends the
token: whoever stands between learns nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from animus.agent.v1 import enrollment_pb2, enrollment_pb2_grpc
from animus_agent.errors import IdentityError
from animus_agent.files import fsync_directory, remove_tree, write_atomic
from animus_kit import pki, retry
from animus_kit.clock import Clock
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, open_bundle
from animus_kit.documents.errors import DocumentError
from animus_kit.status import from_rpc_error
from animus_kit.tls import TlsFiles

PROOF_PREFIX = b"animus-enroll\n"
CONNECT_SECONDS = 10.0
ENROLL_TRIES = 5
_TOKEN = re.compile(r"animus1\.([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{1,512})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class About:
    """Who this node is and where it dials."""

    agent: str
    dispatch_endpoint: str
    blob_endpoint: str
    trust_domain: str


class Identity:
    """The folder above. Safe for many threads."""

    def __init__(self, directory: Path, clock: Clock, root_key: Path | None = None) -> None:
        self._directory = directory
        self._clock = clock
        self._roots = [read_public_key(root_key)] if root_key else []
        self._lock = threading.Lock()
        self._bundle: TrustBundle | None = None

    @property
    def enrolled(self) -> bool:
        return (self._directory / "agent.json").exists()

    def about(self) -> About:
        """Raises IdentityError when the node has not joined."""
        try:
            return About(**json.loads((self._directory / "agent.json").read_text()))
        except FileNotFoundError:
            raise IdentityError("this node has not joined; run `animus-agent enroll`", "NOT_ENROLLED") from None

    def tls(self) -> TlsFiles:
        # Resolved, so that key and certificate are of one generation however slowly they are read.
        current = (self._directory / "current").resolve()
        return TlsFiles(current / "tls.crt", current / "tls.key", self._directory / "services-ca.pem")

    def attestation_key(self) -> Ed25519PrivateKey:
        return pki.load_signing_key((self._directory / "attestation.key").read_bytes())

    def contract_keys(self) -> dsse.Keys:
        """Keys that may sign contracts now, by this node's clock."""
        return self.bundle().keys_for("contract", self._clock.now())

    def bundle(self) -> TrustBundle:
        with self._lock:
            if self._bundle is None:
                self._bundle = self._open((self._directory / "bundle").read_bytes(), 0)
            return self._bundle

    def take_bundle(self, envelope: bytes) -> bool:
        """Keeps a newer trust bundle; False for the one at hand. Raises IdentityError for an older or a bad one."""
        known = self.bundle()
        fresh = self._open(envelope, known.sequence)
        if fresh.sequence == known.sequence:
            return False
        with self._lock:
            self._write("services-ca.pem", "".join(fresh.services_ca).encode(), 0o644)
            self._write("bundle", envelope, 0o644)
            self._bundle = fresh
        return True

    def lifetime(self) -> tuple[datetime, datetime]:
        """Of the current TLS certificate."""
        certificate = x509.load_pem_x509_certificate(self.tls().cert.read_bytes())
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc

    def renewal_due(self) -> bool:
        """From a third of the certificate's life on."""
        begin, end = self.lifetime()
        # Certificates are backdated by an hour for verifiers whose clocks are behind; that is no part of their life.
        begin += pki.BACKDATE
        return self._clock.now() >= begin + (end - begin) / 3

    def new_csr(self) -> tuple[bytes, bytes]:
        return pki.new_csr()

    def install(self, key_pem: bytes, certificate_pem: bytes) -> None:
        """Puts a key and its certificate in force together."""
        _match(key_pem, certificate_pem)
        with self._lock:
            number = 1 + max((int(p.name[4:]) for p in self._directory.glob("gen-*")), default=0)
            home = self._directory / f"gen-{number}"
            home.mkdir(mode=0o700)
            write_atomic(home / "tls.key", key_pem, durable=True)
            write_atomic(home / "tls.crt", certificate_pem, durable=True, mode=0o644)
            link = self._directory / ".current"
            link.unlink(missing_ok=True)
            link.symlink_to(home.name)
            os.replace(link, self._directory / "current")
            fsync_directory(self._directory)
            for old in self._directory.glob("gen-*"):
                if int(old.name[4:]) < number - 1:
                    remove_tree(old)

    def enroll(self, endpoint: str, token: str) -> About:
        """Trades a join token for an identity. Raises IdentityError; may be repeated with the same token.

        The keys are written before they are first used, so that a lost answer can be asked for again.
        """
        match = _TOKEN.fullmatch(token.strip())
        if not match:
            raise IdentityError("a join token is animus1.<id>.<secret>.<pin>", "TOKEN_MALFORMED")
        if self.enrolled:
            raise IdentityError(f"this node is {self.about().agent} already", "ALREADY_ENROLLED")
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca, server_name = pinned_ca(endpoint, match[3])
        key_pem, csr = self._pending_keys()
        attestation = self.attestation_key()
        request = enrollment_pb2.EnrollRequest(
            token=token.strip(),
            tls_csr=csr,
            attestation_public_key=pki.raw_public_key(attestation.public_key()),
            attestation_proof=attestation.sign(PROOF_PREFIX + csr),
        )
        response = _call_enroll(endpoint, ca, server_name, request)
        self._open(response.trust_bundle, 0)
        if pki.spki_pin(x509.load_pem_x509_certificate(response.services_ca)) != match[3]:
            raise IdentityError("the services CA sent is not the one that the token pins", "PIN_MISMATCH")
        self.install(key_pem, response.tls_certificate)
        self._write("services-ca.pem", response.services_ca, 0o644)
        self._write("bundle", response.trust_bundle, 0o644)
        self._write("attestation.cert", response.attestation_certificate, 0o644)
        about = About(response.agent, response.dispatch_endpoint, response.blob_endpoint, response.trust_domain)
        fields = {name: getattr(about, name) for name in About.__slots__}
        # Last: its presence says that all else is there.
        self._write("agent.json", json.dumps(fields).encode(), 0o644)
        remove_tree(self._directory / "pending")
        return about

    def _pending_keys(self) -> tuple[bytes, bytes]:
        pending = self._directory / "pending"
        if not (pending / "tls.csr").exists():
            pending.mkdir(exist_ok=True, mode=0o700)
            key_pem, csr = pki.new_csr()
            attestation = pki.key_pem(pki.new_signing_key())
            write_atomic(self._directory / "attestation.key", attestation, durable=True)
            write_atomic(pending / "tls.key", key_pem, durable=True)
            write_atomic(pending / "tls.csr", csr, durable=True)
        return (pending / "tls.key").read_bytes(), (pending / "tls.csr").read_bytes()

    def _open(self, envelope: bytes, newest: int) -> TrustBundle:
        try:
            if self._roots:
                return open_bundle(envelope, self._roots, newest)
            payload, _ = dsse.open_unverified(envelope, TrustBundle.NOUN)
            bundle = TrustBundle.from_bytes(payload)
        except DocumentError as error:
            raise IdentityError(f"the trust bundle is refused: {error}", error.reason) from error
        if bundle.sequence < newest:
            raise IdentityError(f"trust bundle {bundle.sequence} is older than {newest}", "BUNDLE_ROLLBACK")
        return bundle

    def _write(self, name: str, data: bytes, mode: int) -> None:
        write_atomic(self._directory / name, data, durable=True, mode=mode)


def enroll_again(state: Path, clock: Clock, root_key: Path | None, endpoint: str, token: str) -> About:
    """Gives a node that has joined new keys, by a token that replaces its identity. Raises IdentityError.

    The new identity is made beside the one in force and takes its place when it is whole; the former stays as
    `identity.old`. May be repeated after a lost answer or a crash, with the same token. The agent must not run.
    """
    home, made, old = (state / name for name in ("identity", "identity.new", "identity.old"))
    current, fresh = Identity(home, clock, root_key), Identity(made, clock, root_key)
    about = fresh.about() if fresh.enrolled else fresh.enroll(endpoint, token)
    if current.enrolled:
        known = current.bundle().sequence
        if fresh.bundle().sequence < known:
            raise IdentityError(f"trust bundle {fresh.bundle().sequence} is older than {known}", "BUNDLE_ROLLBACK")
        remove_tree(old)
        home.rename(old)
    made.rename(home)
    fsync_directory(state)
    return about


def read_public_key(path: Path) -> Ed25519PublicKey:
    """PEM, or 64 hex digits. Raises IdentityError."""
    data = path.read_bytes()
    try:
        if data.startswith(b"-----"):
            key = load_pem_public_key(data)
        else:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(data.decode().strip()))
    except (ValueError, UnicodeDecodeError) as error:
        raise IdentityError(f"{path} holds no public key: {error}", "ROOT_KEY_INVALID") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError(f"{path} holds no Ed25519 key", "ROOT_KEY_INVALID")
    return key


def pinned_ca(endpoint: str, pin: str) -> tuple[bytes, str]:
    """The certificate in the server's chain whose SPKI has this pin (PEM), and the server's DNS name.

    Nothing is sent but a TLS handshake. Raises IdentityError PIN_MISMATCH, or UNREACHABLE.
    """
    host, _, port = endpoint.rpartition(":")
    context = ssl.create_default_context()
    # Trust is decided below, by the pin; this connection carries nothing.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as raw,
            context.wrap_socket(raw) as connection,
        ):
            chain = [x509.load_der_x509_certificate(der) for der in _chain(connection)]
    except (OSError, ValueError) as error:
        raise IdentityError(f"{endpoint} cannot be reached: {error}", "UNREACHABLE") from error
    for certificate in chain:
        if pki.spki_pin(certificate) == pin:
            return certificate.public_bytes(Encoding.PEM), _dns_name(chain[0])
    raise IdentityError(
        f"{endpoint} does not present the CA that the token pins; somebody may stand in between", "PIN_MISMATCH"
    )


def _chain(connection: ssl.SSLSocket) -> Iterable[bytes]:
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:  # Python 3.13
        return public()
    import _ssl

    raw = connection._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return [one.public_bytes(_ssl.ENCODING_DER) for one in raw]


def _dns_name(leaf: x509.Certificate) -> str:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [name for name in names.get_values_for_type(x509.DNSName) if name.startswith("orchestrator.")]
    if not found:
        raise IdentityError("the server is not the orchestrator", "PIN_MISMATCH")
    return found[0]


def _call_enroll(
    endpoint: str, ca: bytes, server_name: str, request: enrollment_pb2.EnrollRequest
) -> enrollment_pb2.EnrollResponse:
    options = [("grpc.ssl_target_name_override", server_name)]
    with grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(ca), options) as channel:
        stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
        try:
            pause = threading.Event()
            return retry.call(
                lambda: stub.Enroll(request, timeout=CONNECT_SECONDS),
                tries=ENROLL_TRIES,
                wait=lambda seconds: pause.wait(seconds) and None,
            )
        except grpc.RpcError as error:
            remote = from_rpc_error(error)
            raise IdentityError(f"enrolment was refused: {remote}", remote.reason) from error


def _match(key_pem: bytes, certificate_pem: bytes) -> None:
    from cryptography.hazmat.primitives.serialization import PublicFormat, load_pem_private_key

    key = load_pem_private_key(key_pem, None).public_key()
    certified = x509.load_pem_x509_certificate(certificate_pem).public_key()
    encode = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_bytes(*encode) != certified.public_bytes(*encode):
        raise IdentityError("the certificate is for another key", "CERTIFICATE_MISMATCH")
