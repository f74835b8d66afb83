"""The one way out: the proxy over loopback, and containers that have nothing else."""

import asyncio
import contextlib
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_agent.attempt import steps
from animus_agent.attempt.failure import FailureClass
from animus_agent.egress import proxy, record, rules
from animus_agent.egress.gateway import Gateway
from animus_agent.egress.rules import Ceiling
from animus_agent.testing import MemoryReporter, World
from animus_kit.clock import SystemClock
from animus_kit.documents.action import Network
from animus_kit.documents.sandbox import Egress, SandboxReport
from animus_kit.testing.fixtures import requires_runc
from tests.agent.control import AgentProcess, ControlPlane, until

# The proxy.


class Far:
    """A destination: keeps what it was sent, answers and closes."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.answer, self.received = answer, []
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection:
                    self.received.append(connection.recv(65536))
                    connection.sendall(self.answer)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def far() -> Iterator[Far]:
    one = Far()
    yield one
    one.close()


class Way:
    """A gateway on a loopback port of the test's own."""

    def __init__(self, path: Path, allow: tuple[str, ...], ceiling: Ceiling, names: dict[str, list[str]]) -> None:
        async def resolver(host: str, port: int) -> list[str]:
            self.asked.append(host)
            if host not in names:
                raise OSError("no such name")
            return names[host].copy()

        self.asked: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.gateway = Gateway(allow, ceiling, path / "egress.json", SystemClock(), resolver)
        self.gateway.serve(listener)

    def ask(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 10) as client:
            client.sendall(data)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(65536):
                    answer += piece
            return answer

    def connect(self, destination: str, data: bytes = b"ping") -> bytes:
        return self.ask(f"CONNECT {destination} HTTP/1.1\r\n\r\n".encode() + data)

    def end(self) -> Egress:
        self.gateway.close()
        return self.gateway.document()


def reasons(egress: Egress) -> dict[tuple[str, str], int]:
    return {(one.destination, one.reason): one.connections for one in egress.decisions}


def test_a_permitted_destination_is_reached_and_counted(tmp_path: Path, far: Far) -> None:
    there = f"data.example:{far.port}"
    way = Way(
        tmp_path, (there,), Ceiling.parse([f"*.example:{far.port}"], ["127.0.0.0/8"]), {"data.example": ["127.0.0.1"]}
    )
    assert way.connect(there) == b"HTTP/1.1 200 Connection established\r\n\r\n" + far.answer
    assert way.connect(f"DATA.example.:{far.port}").endswith(b"hello")
    assert way.ask(f"GET http://{there}/x HTTP/1.1\r\nHost: {there}\r\n\r\n".encode()) == far.answer
    assert far.received[:2] == [b"ping", b"ping"] and far.received[2].startswith(b"GET /x HTTP/1.1\r\n")
    egress = way.end()
    (row,) = egress.decisions
    assert (row.destination, row.allowed, row.reason, row.connections) == (there, True, "ALLOWED", 3)
    assert row.addresses == ("127.0.0.1",) and row.first_time <= row.last_time
    assert (row.sent_bytes, row.received_bytes) == (sum(map(len, far.received)), 3 * len(far.answer))


def test_what_is_not_permitted_is_refused_and_recorded(tmp_path: Path, far: Far) -> None:
    names = {"in.example": ["127.0.0.1"], "meta.example": ["169.254.169.254"], "off.example": ["127.0.0.1"]}
    allow = (
        f"in.example:{far.port}",
        "meta.example:80",
        f"off.example:{far.port}",
        "gone.example:80",
        f"127.0.0.1:{far.port}",
    )
    way = Way(tmp_path, allow, Ceiling.parse([f"in.example:{far.port}", "*:80", f"127.0.0.1:{far.port}"]), names)
    told = {
        f"other.example:{far.port}": b"NOT_IN_CONTRACT",  # not on the list
        "in.example:1": b"NOT_IN_CONTRACT",  # nor this port
        f"off.example:{far.port}": b"NOT_ON_NODE",
        f"in.example:{far.port}": b"ADDRESS_REFUSED",  # allowed by name, and it stands for a loopback address
        "meta.example:80": b"ADDRESS_REFUSED",
        "gone.example:80": b"RESOLVE_FAILED",
    }
    for destination, reason in told.items():
        answer = way.connect(destination)
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 502")) and b"X-Animus-Reason: " + reason in answer, answer
    assert not far.received
    # Named literally by both.
    assert way.connect(f"127.0.0.1:{far.port}").endswith(b"hello")
    # Nothing is resolved before the lists have said yes.
    assert way.asked == ["in.example", "meta.example", "gone.example"]
    egress = way.end()
    assert {(d.encode(), r) for d, r in reasons(egress)} >= {(d.encode(), r.decode()) for d, r in told.items()}
    refused = {one.destination: one for one in egress.decisions if not one.allowed}
    assert refused["meta.example:80"].addresses == ("169.254.169.254",)


def test_the_address_that_was_checked_is_the_one_that_is_dialled(tmp_path: Path, far: Far) -> None:
    # A name that answers differently each time finds no second question.
    names = {"a.example": ["127.0.0.1"]}
    there = f"a.example:{far.port}"
    way = Way(tmp_path, (there,), Ceiling.parse([there], ["127.0.0.0/8"]), names)
    assert way.connect(there).endswith(b"hello") and way.asked == ["a.example"]
    # Of many addresses only the reachable ones are tried.
    names["a.example"][:] = ["10.9.9.9", "127.0.0.1"]
    assert way.connect(there).endswith(b"hello")
    names["a.example"][:] = ["127.0.0.2"]
    assert b"CONNECT_FAILED" in way.connect(there)
    (failed,) = [one for one in way.end().decisions if one.reason == "CONNECT_FAILED"]
    assert failed.allowed and failed.addresses == ("127.0.0.2",)


def test_an_own_address_is_reached_only_where_the_node_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rules.is_own(ipaddress.ip_address("127.0.0.1")) and not rules.is_own(ipaddress.ip_address("93.184.216.34"))
    own = ipaddress.ip_address("93.184.216.34")
    monkeypatch.setattr(rules, "is_own", lambda address: address == own)
    assert not Ceiling.parse(["*:443"]).reachable(own, "a.example", 443)
    assert not Ceiling.parse(["*:443"]).reachable(ipaddress.ip_address("::ffff:93.184.216.34"), "a.example", 443)
    assert Ceiling.parse(["*:443"], ["93.184.216.34"]).reachable(own, "a.example", 443)
    assert Ceiling.parse(["93.184.216.34:443"]).reachable(own, "93.184.216.34", 443)


def test_a_client_that_does_not_read_is_counted_and_then_cut(
    tmp_path: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "CLOSE_SECONDS", 0.5)
    far.answer = b"x" * (32 << 20)
    there = f"a.example:{far.port}"
    way = Way(tmp_path, (there,), Ceiling.parse([there], ["127.0.0.0/8"]), {"a.example": ["127.0.0.1"]})
    moved = way.gateway._record.moved

    def fails(*given: object) -> None:
        moved(*given)
        raise OSError("no space")

    monkeypatch.setattr(way.gateway._record, "moved", fails)
    ended: list[object] = []
    shut = proxy.Proxy._shut

    async def seen(self: proxy.Proxy, writer: asyncio.StreamWriter) -> None:
        ended.append(writer)
        await shut(self, writer)

    monkeypatch.setattr(proxy.Proxy, "_shut", seen)
    client = socket.create_connection(("127.0.0.1", way.port), 10)
    client.sendall(f"CONNECT {there} HTTP/1.1\r\n\r\nping".encode())
    until(lambda: far.received, "the request")
    open_ = way.gateway._proxy._open
    assert len(open_) == 1
    client.shutdown(socket.SHUT_WR)
    far.close()
    way.end()
    assert not open_
    # Both sides, though the count could not be written.
    assert len(ended) == 2
    client.close()


def test_what_a_closing_connection_cannot_send_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CLOSE_SECONDS", 0.2)

    async def live() -> None:
        near, other = socket.socketpair()
        with other:
            _, writer = await asyncio.open_connection(sock=near)
            writer.write(b"x" * (8 << 20))
            way = proxy.Proxy((), Ceiling(), None)  # type: ignore[arg-type]
            await asyncio.wait_for(way._shut(writer), 5)
            await asyncio.sleep(0)
            assert writer.transport.get_write_buffer_size() == 0 and near.fileno() == -1

    asyncio.run(live())


def test_hostile_clients_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(proxy, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(record, "MAX_REFUSED", 10)
    way = Way(tmp_path, ("a.example:1",), Ceiling.parse(["a.example:1"]), {})
    assert way.ask(b"x" * (proxy.MAX_HEAD_BYTES * 8)).startswith(b"HTTP/1.1 431")
    assert way.ask(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert way.ask(b"CONNECT a.exa").startswith(b"HTTP/1.1 400")  # and says nothing more
    idle = [socket.create_connection(("127.0.0.1", way.port), 10) for _ in range(4)]
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 10.0)
    answers = []
    until(lambda: answers.append(way.connect("a.example:1")) or b"503" in answers[-1], "a refusal of the fifth")
    for one in idle:
        one.close()
    for number in range(40):
        way.connect(f"n{number}.\x1b[31m.example:1")
    egress = way.end()
    assert egress.unlisted >= 30 and len(egress.decisions) <= 12
    assert all(one.destination.isprintable() for one in egress.decisions)


def test_the_record_survives_the_process(tmp_path: Path, far: Far) -> None:
    there = f"a.example:{far.port}"
    ceiling = Ceiling.parse([there], ["127.0.0.0/8"])
    first = Way(tmp_path, (there,), ceiling, {"a.example": ["127.0.0.1"]})
    first.connect(there)
    # What is there before the gateway is closed is what a killed agent leaves.
    assert json.loads((tmp_path / "egress.json").read_text())["rows"][0]["connections"] == 1
    before = first.end().decisions[0]
    second = Way(tmp_path, (there,), ceiling, {"a.example": ["127.0.0.1"]})
    second.connect(there)
    second.connect("b.example:1")
    egress = second.end()
    assert reasons(egress) == {(there, "ALLOWED"): 2, ("b.example:1", "NOT_IN_CONTRACT"): 1}
    assert egress.decisions[0].first_time == before.first_time
    assert egress.decisions[0].sent_bytes == 2 * before.sent_bytes


# In containers.


def network(*allow: str) -> Network:
    return Network(mode="allow-list", allow=allow)


def test_a_node_that_cannot_or_may_not_refuses_before_anything_runs(fake_world: World) -> None:
    def reason(allow: str) -> str:
        reporter = MemoryReporter()
        steps.execute(fake_world.attempt(fake_world.order("fake", network=network(allow)), reporter))
        failure = reporter.results[0].failure
        assert failure is not None and not reporter.text
        # What a node's rule forbids is not tried again.
        assert (failure.failure_class is FailureClass.POLICY) == (failure.reason == "EGRESS_NOT_ON_NODE")
        return failure.reason

    assert reason("a.example:443") == "NETWORK_UNSUPPORTED"
    fake_world.features = ("network-none", "network-allow-list")
    fake_world.egress = Ceiling.parse(["b.example:443"])
    assert reason("a.example:443") == "EGRESS_NOT_ON_NODE"
    # The fake driver has no namespaces, and says so instead of running without a way out.
    assert reason("b.example:443") == "EGRESS_UNAVAILABLE"


@requires_runc
def test_a_step_reaches_what_is_on_its_list_and_nothing_else(runc_world: World, far: Far) -> None:
    there = f"127.0.0.1:{far.port}"
    runc_world.features = ("network-none", "network-allow-list")
    runc_world.egress = Ceiling.parse([there])
    script = f"""
        env | /bin/busybox grep -ci proxy
        /bin/busybox wget -q -O - http://{there}/data && echo
        /bin/busybox wget -q -O - http://127.0.0.1:1/ 2>&1
        /bin/busybox wget -q -O - http://169.254.169.254/latest/meta-data 2>&1
        /bin/busybox nc -w 2 127.0.0.1 {far.port} < /dev/null 2>&1
        /bin/busybox nc -w 2 192.0.2.1 80 < /dev/null 2>&1
        cat /proc/net/dev | wc -l; true
    """
    # The client would otherwise go past the proxy for a loopback address.
    order = runc_world.order("/bin/sh", "-c", script, network=network(there), env={"no_proxy": "", "NO_PROXY": ""})
    reporter = MemoryReporter()
    attempt = runc_world.attempt(order, reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    text = reporter.text.decode()
    assert reporter.results[0].failure is None, (reporter.results[0].failure, text)
    assert text.startswith("6\nhello\n") and text.count("403 Forbidden") == 2, text
    assert "Connection refused" in text and "Network is unreachable" in text and text.endswith("3\n")
    assert len(far.received) == 1
    report = SandboxReport.from_bytes(reporter.results[0].sandbox_report)
    assert report.egress is not None and report.egress.allow == (there,)
    assert reasons(report.egress) == {
        (there, "ALLOWED"): 1,
        ("127.0.0.1:1", "NOT_IN_CONTRACT"): 1,
        ("169.254.169.254:80", "NOT_IN_CONTRACT"): 1,
    }


@requires_runc
def test_a_step_without_a_network_finds_no_proxy(runc_world: World, far: Far) -> None:
    runc_world.features = ("network-none", "network-allow-list")
    runc_world.egress = Ceiling.parse([f"127.0.0.1:{far.port}"])
    script = "/bin/busybox nc -w 2 127.0.0.1 3128 < /dev/null 2>&1; env | /bin/busybox grep -ci proxy; true"
    reporter = MemoryReporter()
    attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", script), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    assert b"Connection refused" in reporter.text and reporter.text.endswith(b"0\n")
    assert SandboxReport.from_bytes(reporter.results[0].sandbox_report).egress is None


@pytest.fixture
def start(control: ControlPlane, node_dir: Path) -> Iterator[Callable[..., AgentProcess]]:
    running: list[AgentProcess] = []

    def begin(**more: str) -> AgentProcess:
        running.append(AgentProcess(control, node_dir, "runc", **more))
        return running[-1]

    yield begin
    for agent in running:
        agent.close()


@requires_runc
def test_the_way_out_comes_back_with_a_restarted_agent(
    control: ControlPlane, start: Callable[..., AgentProcess], far: Far
) -> None:
    there = f"127.0.0.1:{far.port}"
    agent = start(ANIMUS_AGENT_EGRESS_ALLOW=there)
    until(lambda: control.hellos, "hello", show=lambda: agent.log)
    assert "network-allow-list" in {c.name for c in control.hellos[0].node.capabilities if c.available}
    script = f"""
        while true; do
            got=$(/bin/busybox wget -q -O - http://{there}/ 2>/dev/null) && echo got $got
            case $got in *enough*) break ;; esac
            sleep 0.1
        done
    """
    order = control.world.order("/bin/sh", "-c", script, network=network(there), env={"no_proxy": "", "NO_PROXY": ""})
    known = control.assign(order)
    until(lambda: b"got hello" in known.text, "a first answer", show=lambda: agent.log)
    agent.kill()
    far.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nenough"
    agent.start()
    until(lambda: known.results, "the result", show=lambda: agent.log)
    assert known.results[0].state == run_pb2.Attempt.STATE_SUCCEEDED, known.results
    assert b"got enough" in known.text
    egress = SandboxReport.from_bytes(known.results[0].sandbox_report).egress
    assert egress is not None
    (row,) = egress.decisions
    # Both processes' connections; the one that was cut may have lost its count of bytes, and no decision.
    assert row.connections >= 2 and row.received_bytes >= len(far.answer)
