"""A registry that a test writes line by line: TLS on loopback, and every answer as raw bytes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from animus_kit import pki
from animus_kit.registry.settings import Endpoint


@dataclass
class Request:
    path: str
    headers: dict[str, str]


Answer = Callable[[Request, ssl.SSLSocket], None]


@dataclass
class ScriptedRegistry:
    """`answer` is called for each request; what it raises ends the connection."""

    folder: Path
    answer: Answer
    handshake: bool = True
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ca = pki.new_ca("registry", datetime.now(UTC))
        self.cert, self.key, self.ca_file = (self.folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        leaf = pki.issue_service(self.ca, "r", ("localhost",), "test", datetime.now(UTC), addresses=("127.0.0.1",))
        pki.write_private(self.key, leaf.key_pem)
        pki.write_public(self.cert, leaf.certificate_pem)
        pki.write_public(self.ca_file, self.ca.certificate_pem)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.cert, self.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def endpoint(self, **changes: object) -> Endpoint:
        fields = {"origin": ("127.0.0.1", self.port), "repositories": ("a/b",), "ca": self.ca_file}
        return Endpoint(**{**fields, **changes})  # type: ignore[arg-type]

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            if self.handshake:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), self._tls.wrap_socket(connection, server_side=True) as stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = stream.recv(1)
                if not data:
                    return
                head += data
            first, *rest = head.decode("latin-1").split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest) if k}
            request = Request(first.split(" ")[1], headers)
            self.requests.append(request)
            self.answer(request, stream)


def head(status: str, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def whole(data: bytes, status: str = "200 OK", **headers: object) -> Answer:
    """Answers with all of `data`."""
    return lambda request, stream: stream.sendall(head(status, Content_Length=len(data), **headers) + data)


@contextmanager
def scripted(folder: Path, answer: Answer, *, handshake: bool = True) -> Iterator[ScriptedRegistry]:
    registry = ScriptedRegistry(folder, answer, handshake)
    try:
        yield registry
    finally:
        registry.close()
