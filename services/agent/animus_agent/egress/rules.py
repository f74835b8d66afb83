"""What may be reached: the contract's list and the node's ceiling, both, and never an inner address by surprise.

The contract names `host:port`. The node's setting bounds it: `host:port`, `*.suffix:port`, `*:port`. A name is allowed
by name and then refused by address when it stands for something that is not public: loopback, private, link-local
(metadata services), multicast, this node's own, also where such an address is wrapped into IPv6. An address is reached all the same when
it lies in one of the node's `networks`, or when contract and node both name it literally.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PATTERN = re.compile(r"(?:\*|(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)")
# Not public either, whatever the standard library of some release thinks of them: protocol assignments (one cloud's
# metadata service among them), local NAT64, site-local.
_INNER: tuple[Network, ...] = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")))
# RFC 6052 §2.1: an IPv4 address in the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What this node lets out at most. Empty: nothing, and no contract with an allow-list is taken."""

    hosts: frozenset[tuple[str, int]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, allow: Iterable[str], networks: Iterable[str] = ()) -> Ceiling:
        """Raises ValueError, naming what cannot be read."""
        return cls(frozenset(_entry(text) for text in allow), tuple(_network(text) for text in networks))

    def __bool__(self) -> bool:
        return bool(self.hosts)

    def admits(self, host: str, port: int) -> bool:
        return any(port == allowed and _matches(pattern, host) for pattern, allowed in self.hosts)

    def refused(self, allow: Iterable[str]) -> list[str]:
        """Those of a contract's `host:port` that this node does not let out."""
        return [text for text in allow if not self.admits(*split(text))]

    def reachable(self, address: Address, host: str, port: int) -> bool:
        """Whether a permitted destination may stand for this address."""
        if literal(host) is not None and (host, port) in self.hosts:
            return True
        inner = unwrap(address)
        if _within(inner, self.networks):
            return True
        if not inner.is_global or inner.is_multicast or _within(inner, _INNER):
            return False
        return not is_own(inner) and not is_own(address)


def is_own(address: Address) -> bool:
    """Whether an interface of this node has it. Asks the kernel's routes, and sends nothing: what it would use as the
    source towards an address of its own is that address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
            asked.connect((str(address), 9))
            return ipaddress.ip_address(asked.getsockname()[0]) == address
    except OSError:
        return False  # there is no way to it


def split(text: str) -> tuple[str, int]:
    """`host:port` in its parts; an IPv6 address stands in brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no host:port")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not host or ":" in host:
        raise ValueError(f"{text!r} is no host:port")
    return host.lower().removesuffix("."), int(port)


def literal(host: str) -> Address | None:
    """The address that a host literally is; None for a name, also for one that a resolver would take for a number."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def unwrap(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _matches(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        # An address has no suffix, whatever its last digits are.
        return host.endswith(pattern[1:]) and literal(host) is None
    return pattern == host


def _entry(text: str) -> tuple[str, int]:
    host, port = split(text)
    if literal(host) is None and not _PATTERN.fullmatch(host):
        raise ValueError(f"{text!r} is no host:port, *.suffix:port or *:port")
    return host, port


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network: {error}") from None
