"""Blobs and manifests by digest from one registry (OCI distribution-spec 1.1, "Pull"; token flow as Docker's).

Nothing that comes is believed: whoever reads hashes. What this module answers for is where a pull leads (TLS only,
redirects and token services from a list, credentials to the registry's own origin alone), how long it may take (a
registry that hangs, drips or never ends is given up), and that a broken connection is gone on with by range.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

from animus_kit import retry
from animus_kit.digest import PREFIXED_RE
from animus_kit.registry.errors import NotInRegistry, RegistryDenied, RegistryMisbehaved, RegistryUnavailable
from animus_kit.registry.settings import Endpoint, is_repository, origin_of, read_secret

CHUNK_BYTES = 1 << 20
# What a connection must have brought before the one that breaks after it counts as the first.
MIN_PROGRESS_BYTES = 64 << 10
MAX_REDIRECTS = 3
MAX_TOKEN_BYTES = 64 << 10
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PARAMETER = re.compile(r'([a-zA-Z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until the head of an answer must be there and between two reads of its body; bytes a second that a body
    must come with, over `window_seconds` of waiting for it; tries before a registry counts as away."""

    head_seconds: float = 20.0
    stall_seconds: float = 20.0
    window_seconds: float = 30.0
    bytes_per_second: int = 16 << 10
    tries: int = 4


@dataclass(slots=True)
class _Pace:
    """Seconds waited for a body and bytes that came meanwhile: over all connections of one read."""

    waited: float = 0.0
    came: int = 0


class _Broken(Exception):
    """A connection that may be tried again, with what happened."""


class _Connection(http.client.HTTPSConnection):
    """Handshakes on a socket that is known already, so that the watchdog can end also a handshake that drips."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls = context
        self.was_cut = False

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def cut(self) -> None:
        """From another thread: whoever waits for this connection wakes."""
        self.was_cut = True
        if self.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class RegistryClient:
    """Safe for several threads. `give_up` may raise, and is asked before each chunk and each try."""

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience = Patience(),
        give_up: Callable[[], None] = lambda: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._patience = patience
        self._give_up = give_up
        self._wait = wait
        self._tls = ssl.create_default_context(cafile=str(endpoint.ca) if endpoint.ca else None)
        self._tokens: dict[str, str] = {}

    def manifest(self, repository: str, digest: str) -> Iterator[bytes]:
        """The bytes of a manifest or an index. Raises RegistryError."""
        return self._read(repository, digest, "manifests")

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """The bytes of a configuration or a layer. Raises RegistryError."""
        return self._read(repository, digest, "blobs")

    def _read(self, repository: str, digest: str, what: str) -> Iterator[bytes]:
        if PREFIXED_RE.fullmatch(digest) is None or not is_repository(repository):
            raise ValueError(f"not a repository and a digest: {repository!r} {digest!r}")
        path = f"/v2/{repository}/{what}/{digest}"
        offset, failures, progress, pace = 0, 0, 0, _Pace()
        delays = retry.backoff(0.2)
        while True:
            self._give_up()
            try:
                for chunk in self._body(path, repository, offset, pace):
                    offset += len(chunk)
                    progress += len(chunk)
                    if progress >= MIN_PROGRESS_BYTES:
                        failures = 0
                    yield chunk
                    self._give_up()
                return
            except (_Broken, OSError, http.client.HTTPException) as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise RegistryDenied(f"{self._endpoint.name}: {error.verify_message}", "REGISTRY_TLS") from error
                failures, progress = failures + 1, 0
                if failures >= self._patience.tries:
                    raise RegistryUnavailable(f"{self._endpoint.name}: {digest}: {_told(error)}") from error
            self._wait(next(delays))

    def _body(self, path: str, repository: str, offset: int, pace: _Pace) -> Iterator[bytes]:
        url = f"https://{_netloc(self._endpoint.origin)}{path}"
        with self._answer(url, repository, offset) as (answer, connection):
            length = answer.length
            if length is None or answer.getheader("Content-Encoding", "identity") != "identity":
                raise RegistryMisbehaved(f"{self._endpoint.name} does not say how many bytes it sends")
            skip = offset
            if answer.status == 206:
                if not (answer.getheader("Content-Range") or "").startswith(f"bytes {offset}-"):
                    raise RegistryMisbehaved(f"{self._endpoint.name} answers another range than was asked for")
                skip = 0
            yield from _after(skip, self._chunks(answer, connection, length, pace))

    def _chunks(
        self, answer: http.client.HTTPResponse, connection: _Connection, length: int, pace: _Pace
    ) -> Iterator[bytes]:
        """Only the time spent waiting counts: a slow reader on our side is not the registry's fault."""
        patience = self._patience
        left = length
        if connection.sock is not None:
            connection.sock.settimeout(patience.stall_seconds)
        while left:
            before = time.monotonic()
            chunk = answer.read1(min(left, CHUNK_BYTES))
            pace.waited += time.monotonic() - before
            if not chunk:
                raise _Broken(f"the connection ended {left} bytes early")
            left -= len(chunk)
            pace.came += len(chunk)
            yield chunk
            if pace.waited >= patience.window_seconds:
                if pace.came < pace.waited * patience.bytes_per_second:
                    raise RegistryUnavailable(
                        f"{self._endpoint.name}: {pace.came} bytes in {pace.waited:.0f} s", "REGISTRY_TOO_SLOW"
                    )
                pace.waited, pace.came = 0.0, 0

    @contextmanager
    def _answer(self, url: str, repository: str, offset: int) -> Iterator[tuple[http.client.HTTPResponse, _Connection]]:
        """A good answer's head, after tokens and redirects."""
        name, asked = self._endpoint.name, False
        redirects = 0
        while True:
            at_home = origin_of(url) == self._endpoint.origin
            headers = {"Accept": _ACCEPT, **({"Range": f"bytes={offset}-"} if offset else {})}
            authorization = self._authorization(repository) if at_home else ""
            if authorization:
                headers["Authorization"] = authorization
            with self._request(url, headers) as (answer, connection):
                status = answer.status
                if status in (200, 206) and (status == 200 or offset):
                    yield answer, connection
                    return
                if status == 401 and at_home and not asked:
                    asked = True
                    challenge = answer.getheader("WWW-Authenticate", "")
                elif status in _REDIRECTS and redirects < MAX_REDIRECTS:
                    redirects += 1
                    url = self._redirected(url, answer.getheader("Location", ""))
                    continue
                else:
                    self._refused(status, url)
            if not self._take_challenge(challenge, repository):
                raise RegistryDenied(f"{name} refuses our credentials for {repository}")

    def _refused(self, status: int, url: str) -> None:
        where = f"{self._endpoint.name}: {urlsplit(url).path[:300]}"
        if status in (401, 403):
            raise RegistryDenied(f"{where}: refused with status {status}")
        if status in (404, 410):
            raise NotInRegistry(where)
        if status == 429 or status >= 500:
            raise _Broken(f"status {status}")
        raise RegistryMisbehaved(f"{where}: status {status}")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            origin = origin_of(target)
            if not location or not (target.isascii() and target.isprintable()):
                raise ValueError(location)
        except ValueError:
            raise RegistryMisbehaved(f"{self._endpoint.name} redirects to no https URL", "REGISTRY_REDIRECT") from None
        if origin != self._endpoint.origin and origin not in self._endpoint.redirect_origins:
            raise RegistryMisbehaved(
                f"{self._endpoint.name} redirects to {_netloc(origin)}, which is not on its list", "REGISTRY_REDIRECT"
            )
        return target

    # Who we are.

    def _authorization(self, repository: str) -> str:
        if self._endpoint.token_file is not None:
            return f"Bearer {read_secret(self._endpoint.token_file)}"
        return self._tokens.get(repository, "")

    def _take_challenge(self, challenge: str, repository: str) -> bool:
        """Prepares the next try's authorization. False when there is nothing (more) to offer."""
        scheme, _, rest = challenge.partition(" ")
        parameters = {key.lower(): value for key, value in _PARAMETER.findall(rest)}
        if self._endpoint.token_file is not None:
            return False
        if scheme.lower() == "basic" and self._endpoint.username:
            self._tokens[repository] = self._basic()
            return True
        if scheme.lower() == "bearer" and "realm" in parameters:
            token = self._fetch_token(parameters, repository)
            self._tokens[repository] = f"Bearer {token}"
            return True
        return False

    def _basic(self) -> str:
        assert self._endpoint.password_file is not None
        pair = f"{self._endpoint.username}:{read_secret(self._endpoint.password_file)}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _fetch_token(self, parameters: dict[str, str], repository: str) -> str:
        name, realm = self._endpoint.name, parameters["realm"]
        try:
            origin = origin_of(realm)
            if not (realm.isascii() and realm.isprintable()):
                raise ValueError(realm)
        except ValueError:
            raise RegistryMisbehaved(f"{name} names a token service without https", "REGISTRY_REDIRECT") from None
        if origin != self._endpoint.origin and origin not in self._endpoint.token_origins:
            raise RegistryMisbehaved(
                f"{name} sends for tokens to {_netloc(origin)}, which is not its token_url", "REGISTRY_REDIRECT"
            )
        # Our own scope, whatever the challenge asks for: reading this one repository.
        query = {"scope": f"repository:{repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"
        headers = {"Accept": "application/json"}
        if self._endpoint.username:
            headers["Authorization"] = self._basic()
        with self._request(url, headers) as (answer, connection):
            if answer.status != 200:
                if answer.status == 429 or answer.status >= 500:
                    raise _Broken(f"the token service answered {answer.status}")
                raise RegistryDenied(f"{name}: its token service answered {answer.status}")
            length = min(answer.length if answer.length is not None else 0, MAX_TOKEN_BYTES)
            body = b"".join(self._chunks(answer, connection, length, _Pace()))
        try:
            document = json.loads(body)
            token = document.get("token") or document["access_token"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryMisbehaved(f"{name}: its token service gave no token")
        return token

    @contextmanager
    def _request(self, url: str, headers: dict[str, str]) -> Iterator[tuple[http.client.HTTPResponse, _Connection]]:
        """One request. The head must be there in time, however slowly it drips."""
        self._give_up()
        parts = urlsplit(url)
        host, port = origin_of(url)
        connection = _Connection(host, port, self._patience.stall_seconds, self._tls)
        watchdog = threading.Timer(self._patience.head_seconds, connection.cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            connection.request("GET", target, headers={**headers, "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            watchdog.cancel()
            if connection.was_cut:
                # http.client takes the end of the stream for the end of the head.
                raise _Broken(f"no answer within {self._patience.head_seconds:g} s")
            yield answer, connection
        finally:
            watchdog.cancel()
            connection.close()


def _after(skip: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Drops the first bytes of an answer that began anew."""
    for chunk in chunks:
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:] if skip else chunk
        skip = 0


def _netloc(origin: tuple[str, int]) -> str:
    host, port = origin
    shown = f"[{host}]" if ":" in host else host
    return shown if port == 443 else f"{shown}:{port}"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
