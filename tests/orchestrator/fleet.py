"""Thousands of agents that do nothing: enrolled identities, each with its own connection over mutual TLS and its own
session on the real stream. They speak the protocol and run nothing.

    python -m tests.orchestrator.fleet FOLDER FIRST COUNT PORT SECONDS INTERVAL

is a process of them; it prints one JSON line when all are connected, and another with what it measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc
from animus_kit import pki
from animus_kit.db import bulk
from animus_kit.db.engine import transaction
from animus_orchestrator.dispatch.authority import AgentAuthority
from animus_orchestrator.service.planning import CAPABILITIES
from animus_orchestrator.store.schema import agents
from tests.orchestrator.world import DOMAIN, World, until

CPU_MILLIS, MEMORY_BYTES = 8000, 8 << 30
"""Of each node."""
CONNECTING = 64
"""Handshakes under way at once."""


def enrol(world: World, count: int) -> None:
    """Agents `idle-0` to `idle-<count - 1>` with certificates of their own, as enrolment makes them. One key serves all:
    what is tried is not whether keys differ."""
    folder, now = world.pki.folder, datetime.now(UTC)
    key, csr = pki.new_csr()
    (folder / "fleet.key").write_bytes(key)
    authority = AgentAuthority(world.pki.agents, DOMAIN)
    attestation = pki.raw_public_key(pki.new_signing_key().public_key())
    rows = []
    for number in range(count):
        certificate = authority.sign(csr, f"idle-{number}", now)
        (folder / f"idle-{number}.pem").write_bytes(certificate.pem)
        rows.append(
            {
                "id": f"idle-{number}", "pool": "default", "attestation_key": attestation,
                "attestation_certificate": b"", "attestation_not_after": now + pki.SERVICE_LIFETIME,
                "serial": certificate.serial, "certificate": certificate.pem,
                "certificate_expire_time": certificate.not_after, "enroll_time": now,
            }
        )  # fmt: skip
    with transaction(world.engine) as conn:
        bulk.insert(conn, agents, rows)


# -- one process of agents ------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """Milliseconds from a Status sent to its Directive received, and what went wrong."""

    heartbeats: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    measuring: bool = False


class Idle:
    """One agent."""

    def __init__(self, name: str, port: int, folder: Path, interval: float, measured: Measured):
        self.name = name
        self._measured = measured
        self._interval = interval
        credentials = grpc.ssl_channel_credentials(
            (folder / "services.pem").read_bytes(),
            (folder / "fleet.key").read_bytes(),
            (folder / f"{name}.pem").read_bytes(),
        )
        options = [
            ("grpc.ssl_target_name_override", f"orchestrator.{DOMAIN}"),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
        self._sequence = 0

    async def connect(self) -> None:
        self._call = dispatch_pb2_grpc.DispatchServiceStub(self._channel).Connect()
        hello = pb.Hello(
            instance_id=str(uuid.uuid4()), boot_id=str(uuid.uuid4()), spool_id=str(uuid.uuid4()), status=self._status(),
            node={
                "platform": "linux/amd64", "cpu_millis": CPU_MILLIS, "memory_bytes": MEMORY_BYTES,
                "capabilities": [{"name": c, "available": True} for c in CAPABILITIES],
            },
        )  # fmt: skip
        await self._call.write(pb.AgentMessage(hello=hello))
        for _ in ("welcome", "directive"):
            if await self._call.read() is grpc.aio.EOF:
                raise ConnectionError(f"{self.name}: {await self._call.code()} {await self._call.details()}")

    async def beat(self) -> None:
        """Until it is canceled."""
        try:
            await asyncio.sleep(random.uniform(0, self._interval))
            while True:
                begin = time.perf_counter()
                status = self._status()
                await self._call.write(pb.AgentMessage(status=status))
                while True:
                    message = await self._call.read()
                    if message is grpc.aio.EOF:
                        raise ConnectionError(f"{self.name}: the stream ended, {await self._call.code()}")
                    if message.directive.status_sequence == status.sequence:
                        break
                took = time.perf_counter() - begin
                if self._measured.measuring:
                    self._measured.heartbeats.append(took * 1000)
                await asyncio.sleep(max(0.0, self._interval - took))
        except Exception as error:
            self._measured.errors.append(str(error))

    def _status(self) -> pb.Status:
        self._sequence += 1
        status = pb.Status(
            sequence=self._sequence, room=pb.Room(attempts=4, cpu_millis=CPU_MILLIS, memory_bytes=MEMORY_BYTES)
        )  # fmt: skip
        status.client_time.GetCurrentTime()
        return status

    async def close(self) -> None:
        await self._channel.close()


async def hold(folder: Path, first: int, count: int, port: int, seconds: float, interval: float) -> None:
    measured, gate = Measured(), asyncio.Semaphore(CONNECTING)
    fleet = [Idle(f"idle-{first + n}", port, folder, interval, measured) for n in range(count)]

    async def connect(agent: Idle) -> asyncio.Task[None]:
        async with gate:
            await agent.connect()
        return asyncio.create_task(agent.beat())

    begin = time.perf_counter()
    beating = await asyncio.gather(*(connect(agent) for agent in fleet))
    print(json.dumps({"connected": count, "seconds": time.perf_counter() - begin}), flush=True)
    # From the first whole round on: what follows connecting is not what idling costs.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    measured.measuring = True
    await asyncio.sleep(seconds)
    measured.measuring = False
    for task in beating:
        task.cancel()
    print(json.dumps({"heartbeats_ms": measured.heartbeats, "errors": measured.errors[:20]}), flush=True)
    await asyncio.gather(*beating, return_exceptions=True)
    await asyncio.gather(*(agent.close() for agent in fleet))


# -- dispatch, and the fleet around it --------------------------------------------------------------------------------------


@contextmanager
def dispatch_process(world: World, log: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """`python -m animus_orchestrator dispatch` on the world's database, and its port."""
    port, enrollment = free_ports(2)
    folder = world.pki.folder
    settings: Mapping[str, object] = {
        **world.common, "listen": f"127.0.0.1:{port}", "enrollment_listen": f"127.0.0.1:{enrollment}",
        "agents_ca": folder / "agents.pem", "agents_ca_key": folder / "agents.key",
        "contract_key": folder / "contract.key", "attestation_key": folder / "attestation.key",
        "trust_bundle": folder / "bundle.json", "dispatch_endpoint": "dispatch.test:1",
        "blob_endpoint": "blobs.test:2", "log_level": "WARNING",
    }  # fmt: skip
    environment = os.environ | {f"ANIMUS_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "animus_orchestrator", "dispatch"], env=environment, stdout=out, stderr=out
        )
    try:
        until(lambda: _listens(port) or process.poll() is not None, 60)
        if process.poll() is not None:
            raise RuntimeError(f"dispatch did not start: {log.read_text()[-2000:]}")
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Report:
    """rss: bytes of the dispatch process for each agent. cpu: its share of a core while they idle. probed: by how much
    the caller's probe grew meanwhile."""

    agents: int
    connect_seconds: float
    heartbeats_ms: list[float]
    rss_per_agent: float
    cpu: float
    errors: list[str]
    probed: int = 0


def measure(
    world: World,
    log: Path,
    count: int,
    seconds: float,
    interval: float,
    processes: int = 2,
    settle: float = 0.0,
    probe: Callable[[], int] = lambda: 0,
) -> Report:
    """Connects `count` agents, lets them settle, and measures `seconds` of their idling."""
    with dispatch_process(world, log) as (dispatch, port):
        before = memory(dispatch.pid)
        share = [count // processes + (n < count % processes) for n in range(processes)]
        clients = []
        begin = time.monotonic()
        try:
            for number, size in enumerate(share):
                clients.append(_client(world.pki.folder, sum(share[:number]), size, port, seconds, interval))
            for client in clients:
                _line(client)
            connected = time.monotonic() - begin
            time.sleep(settle)
            used, at, grown = processor(dispatch.pid), time.monotonic(), probe()
            for client in clients:
                client.stdin.write("go\n")
                client.stdin.flush()
            told = [_line(client) for client in clients]
            cpu = (processor(dispatch.pid) - used) / (time.monotonic() - at)
            rss = (memory(dispatch.pid) - before) / count
            grown = probe() - grown
        finally:
            for client in clients:
                with suppress(ProcessLookupError):
                    client.send_signal(signal.SIGKILL)
                client.wait()
    return Report(
        count, connected, [ms for one in told for ms in one["heartbeats_ms"]], rss, cpu,
        [error for one in told for error in one["errors"]], grown,
    )  # fmt: skip


def _client(folder: Path, first: int, count: int, port: int, seconds: float, interval: float) -> subprocess.Popen:
    words = [str(word) for word in (folder, first, count, port, seconds, interval)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.orchestrator.fleet", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def _line(client: subprocess.Popen) -> dict[str, Any]:
    line = client.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of agents ended with {client.wait()}")
    return json.loads(line)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{pid} has no memory")


def processor(pid: int) -> float:
    """Seconds of processor time it has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    begin_at, how_many, on, lasting, every = numbers
    asyncio.run(hold(Path(where), int(begin_at), int(how_many), int(on), float(lasting), float(every)))
