"""An HTTP proxy for one container: CONNECT (RFC 9110 §9.3.6) and absolute-form requests for http (RFC 9112 §3.2.2).

What the client sends is hostile: bounded in size, time and number; nothing of it but the destination decides anything.
Names are resolved here, once, and the connection goes to the very address that was checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from animus_agent.egress.record import Record
from animus_agent.egress.rules import Ceiling, literal, split

MAX_HEAD_BYTES = 16 << 10
MAX_CONNECTIONS = 256
HEAD_SECONDS = 10.0
RESOLVE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
# For what is still unsent when a connection ends; a side that does not read it is cut.
CLOSE_SECONDS = 60.0
PIECE = 64 << 10

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:")
# Of the connection between client and proxy; the rest is passed on as it came.
_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"})

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Refused(Exception):
    """The connection is not made. `reason` is what is recorded; `allowed`: the rules were not what refused it."""

    def __init__(self, status: str, reason: str, *, allowed: bool = False, addresses: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.status, self.reason, self.allowed, self.addresses = status, reason, allowed, addresses


@dataclass(frozen=True, slots=True)
class Request:
    """`head`: what is sent to the destination first; empty for CONNECT, which only opens a way."""

    destination: str
    host: str
    port: int
    head: bytes


async def resolve(host: str, port: int) -> list[str]:
    """The node's own resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))


class Proxy:
    """`allow`: the contract's list. Lives on one event loop."""

    def __init__(self, allow: tuple[str, ...], ceiling: Ceiling, record: Record, resolver: Resolve = resolve) -> None:
        self._allow = frozenset(split(one) for one in allow)
        self._ceiling = ceiling
        self._record = record
        self._resolve = resolver
        self._open: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self, listener: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(self._accept, sock=listener, limit=MAX_HEAD_BYTES)

    async def stop(self) -> None:
        """Cuts what is open; its bytes are counted."""
        self._stopping = True
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        destination = "unknown"
        try:
            try:
                if len(self._open) > MAX_CONNECTIONS:
                    raise Refused("503 Service Unavailable", "TOO_MANY_CONNECTIONS")
                request = await _read(reader)
                destination = request.destination
                await self._serve(request, reader, writer)
            except Refused as error:
                self._record.decided(destination, error.allowed, error.reason, error.addresses)
                await _answer(writer, error.status, f"{destination}: {error.reason}\n", error.reason)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            # The client went away; what had been decided is recorded.
            pass
        finally:
            # Counted until its buffer is gone: a client that never reads would leave more behind with each connection.
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._shut(writer)
            finally:
                self._open.discard(task)

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        addresses = await self._permitted(request)
        # Before the first packet: a connection that is not recorded is not made.
        self._record.decided(request.destination, True, "ALLOWED", addresses)
        far_reader, far_writer = await self._dial(addresses, request)
        moved = [0, 0]
        try:
            if request.head:
                far_writer.write(request.head)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, far_writer, moved, 0))
                both.create_task(_pump(far_reader, writer, moved, 1))
        except* (OSError, TimeoutError):
            pass  # either side broke off, which is what the other one sees
        finally:
            writer.close()
            try:
                self._record.moved(request.destination, "ALLOWED", moved[0] + len(request.head), moved[1])
            finally:
                await self._shut(far_writer)

    async def _shut(self, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._stopping:
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), CLOSE_SECONDS)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()

    async def _permitted(self, request: Request) -> tuple[str, ...]:
        """Addresses that may be connected to. Raises Refused."""
        host, port = request.host, request.port
        if (host, port) not in self._allow:
            raise Refused("403 Forbidden", "NOT_IN_CONTRACT")
        if not self._ceiling.admits(host, port):
            raise Refused("403 Forbidden", "NOT_ON_NODE")
        if literal(host) is not None:
            found = [host]
        else:
            try:
                found = await asyncio.wait_for(self._resolve(host, port), RESOLVE_SECONDS)
            except (OSError, TimeoutError, UnicodeError):
                raise Refused("502 Bad Gateway", "RESOLVE_FAILED", allowed=True) from None
        fit = tuple(one for one in found if self._ceiling.reachable(ipaddress.ip_address(one), host, port))
        if not fit:
            raise Refused("403 Forbidden", "ADDRESS_REFUSED", addresses=tuple(found))
        return fit

    async def _dial(
        self, addresses: tuple[str, ...], request: Request
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for address in addresses:
            try:
                return await asyncio.wait_for(
                    asyncio.open_connection(address, request.port, limit=PIECE), CONNECT_SECONDS
                )
            except (OSError, TimeoutError):
                continue
        raise Refused("502 Bad Gateway", "CONNECT_FAILED", allowed=True, addresses=addresses)


async def _read(reader: asyncio.StreamReader) -> Request:
    """Raises Refused REQUEST_INVALID."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    except asyncio.LimitOverrunError:
        raise Refused("431 Request Header Fields Too Large", "REQUEST_INVALID") from None
    except (asyncio.IncompleteReadError, TimeoutError):
        raise Refused("400 Bad Request", "REQUEST_INVALID") from None
    try:
        return parse(head)
    except ValueError:
        raise Refused("400 Bad Request", "REQUEST_INVALID") from None


def parse(head: bytes) -> Request:
    """A request's head, up to its empty line. Raises ValueError."""
    if re.search(rb"[\r\n\0]", head.replace(b"\r\n", b"")):
        raise ValueError("what some destinations take for the end of a line")
    line, _, fields = head.partition(b"\r\n")
    method, target, version = line.decode("ascii").split(" ")
    if not _TOKEN.fullmatch(method) or version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ValueError("no request line")
    if method == "CONNECT":
        host, port = split(target)
        return Request(_name(host, port), host, port, b"")
    url = urlsplit(target)
    if url.scheme != "http" or not url.hostname or url.username is not None:
        raise ValueError("neither CONNECT nor an absolute http URL")
    host, port = split(
        f"[{url.hostname}]:{url.port or 80}" if ":" in url.hostname else f"{url.hostname}:{url.port or 80}"
    )
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    given = [one for one in fields.split(b"\r\n") if one]
    if not all(_FIELD.match(one) for one in given):
        raise ValueError("no field, or one that goes on on the next line")
    kept = [one for one in given if one.partition(b":")[0].lower() not in {*_HOP, b"host"}]
    # The destination is asked to close after one request. What the client sends after this head is passed on unread, as
    # it is after CONNECT: to the very address that was checked, and nowhere else.
    lines = [f"{method} {path} HTTP/1.1".encode(), f"Host: {url.netloc}".encode(), b"Connection: close", *kept]
    return Request(_name(host, port), host, port, b"\r\n".join(lines) + b"\r\n\r\n")


def _name(host: str, port: int) -> str:
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Names come from the step; the record holds plain text of bounded length.
    return re.sub(r"[^!-~]", "?", text)[:256]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: list[int], direction: int) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        moved[direction] += len(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _answer(writer: asyncio.StreamWriter, status: str, text: str, reason: str) -> None:
    body = f"egress refused: {text}".encode()
    head = f"HTTP/1.1 {status}\r\nX-Animus-Reason: {reason}\r\nContent-Type: text/plain\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await asyncio.wait_for(writer.drain(), HEAD_SECONDS)
