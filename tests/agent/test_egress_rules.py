"""The one way out: what contract and node let out, and what is a request at all."""

import ipaddress

import pytest

from animus_agent.egress import proxy, rules
from animus_agent.egress.rules import Ceiling
from animus_agent.settings import Settings
from animus_kit import settings


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a:0", "a:65536", "a:x", ":1", "a:b:1", "*.*:1", "a*:1", "a b:1", "é:1"]
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no host:port"):
        Ceiling.parse([text])
    with pytest.raises(settings.SettingsError, match="ANIMUS_AGENT_EGRESS"):
        settings.load(Settings, {"ANIMUS_AGENT_EGRESS_NETWORKS": "10.0.0.1/8"})


def test_what_a_node_lets_out() -> None:
    ceiling = Ceiling.parse(["a.example:443", "*.b.example:443", "*:80", "10.0.0.5:22", "[fd00::1]:9"])
    for host, port, admitted in [
        ("a.example", 443, True), ("a.example", 80, True), ("a.example", 444, False), ("x.b.example", 443, True),
        ("b.example", 443, False), ("xb.example", 443, False), ("evil.example", 443, False), ("10.0.0.5", 22, True),
        ("10.0.0.6", 22, False), ("fd00::1", 9, True),
    ]:  # fmt: skip
        assert ceiling.admits(host, port) == admitted, (host, port)
    # The digits of an address are no suffix.
    assert not Ceiling.parse(["*.5:22"]).admits("10.0.0.5", 22)
    assert ceiling.refused(("a.example:443", "c.example:443")) == ["c.example:443"]
    assert not Ceiling() and Ceiling().refused(("a:1",)) == ["a:1"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("0.0.0.0", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.100.100.200", False), ("192.0.0.192", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1", False), ("fd00:ec2::254", False), ("fec0::1", False),
        ("ff02::1", False), ("::ffff:169.254.169.254", False), ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False), ("2002:a9fe:a9fe::", False), ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::1", False), ("2001:0:7f00:1::", False),
    ],
)  # fmt: skip
def test_a_name_reaches_public_addresses_and_inner_ones_only_where_the_node_says_so(address: str, public: bool) -> None:
    inner = ipaddress.ip_address(address)
    assert Ceiling.parse(["*:443"]).reachable(inner, "a.example", 443) == public
    listed = Ceiling.parse(["*:443"], [f"{rules.unwrap(inner)}"])
    assert listed.reachable(inner, "a.example", 443)
    if not public:
        # Named literally by contract and node; any other entry of the node does not open it.
        assert Ceiling.parse([f"[{address}]:443" if ":" in address else f"{address}:443"]).reachable(
            inner, str(inner), 443
        )
        assert not Ceiling.parse(["*:443"]).reachable(inner, str(inner), 443)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"GET / HTTP/1.1", b"CONNECT a HTTP/1.1", b"CONNECT a:1", b"CONNECT a:1 HTTP/2", b"CONNECT u@a:b:1 HTTP/1.1",
        b"GET https://a/ HTTP/1.1", b"GET http://u:p@a/ HTTP/1.1", b"GET ftp://a/ HTTP/1.1", b"G\x00T http://a/ HTTP/1.1",
        b"GET http://a:99999/ HTTP/1.1", b"GET  http://a/ HTTP/1.1", b"\xff http://a/ HTTP/1.1",
        b"GET http://a/ HTTP/1.1\r\nX: a\nHost: other", b"GET http://a/ HTTP/1.1\r\nX: a\rHost: other",
        b"GET http://a/ HTTP/1.1\r\nX: a\x00", b"GET http://a/ HTTP/1.1\r\nHost: a\r\n , keep-alive",
        b"GET http://a/ HTTP/1.1\r\nHost : other",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (of many places, and only its kind counts)
        proxy.parse(head + b"\r\n\r\n")


def test_an_absolute_request_is_passed_on_as_one_request_without_the_proxys_own_fields() -> None:
    head = b"GET http://A.example/x?q=1#frag HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nAccept: */*\r\n\r\n"
    request = proxy.parse(head)
    assert (request.host, request.port, request.destination) == ("a.example", 80, "a.example:80")
    assert request.head == b"GET /x?q=1 HTTP/1.1\r\nHost: A.example\r\nConnection: close\r\nAccept: */*\r\n\r\n"
