"""A control plane for the agent's tests: dispatch, enrolment and blobs over real mTLS, that loses and doubles messages.

It keeps to the rules of animus.agent.v1 and to nothing else; the real one is met in tests/system.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc, enrollment_pb2, enrollment_pb2_grpc
from animus.catalog.v1 import agent_blob_pb2_grpc
from animus_agent.testing import World
from animus_kit import pki, tls
from animus_kit.documents import dsse
from animus_kit.documents.bundle import TrustBundle, TrustedKey
from animus_kit.documents.contract import Contract
from animus_kit.errors import AppError
from animus_kit.status import DETAILS_KEY, to_status
from tests.agent.blob_server import Blobs

DOMAIN = "animus.local"
Intent = pb.AttemptDirective.Intent
ROOT = Path(__file__).parents[2]


@dataclass
class Known:
    """What dispatch knows of one attempt."""

    contract: bytes
    grant: bytes
    intent: int = Intent.INTENT_KEEP
    states: list[int] = field(default_factory=list)
    results: list[pb.AttemptResult] = field(default_factory=list)
    log: dict[int, bytes] = field(default_factory=dict)

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in sorted(self.log.items()))


class ControlPlane(
    dispatch_pb2_grpc.DispatchServiceServicer,
    enrollment_pb2_grpc.EnrollmentServiceServicer,
):
    """Everything on one event loop in a thread of its own. `lose(n)` and `double(n)` say which messages from it go
    astray, `miss(n)` which messages to it; `silent` answers nothing at all, `refusal` ends every stream."""

    def __init__(self, folder: Path, world: World) -> None:
        now = datetime.now(UTC)
        self.folder, self.world = folder, world
        self.services, self.agents = pki.new_ca("services", now), pki.new_ca("agents", now)
        self.root = pki.new_signing_key()
        self.sequence = 1
        self.token = f"animus1.t1.{'s' * 43}.{self.services.pin}"
        self.known: dict[str, Known] = {}
        self.seqs: dict[str, int] = {}
        self.applied: list[tuple[str, int]] = []
        self.instances: list[str] = []
        self.held: set[str] = set()
        self.room = pb.Room()
        self.hellos: list[pb.Hello] = []
        self.used_by: bytes | None = None
        self.enroll_answer: enrollment_pb2.EnrollResponse | None = None
        self.lease = 20.0
        self.silent = False
        self.refusal: AppError | None = None
        self.lines: list[pb.LogLine] = []
        self.lose: Callable[[int], bool] = lambda n: False
        self.double: Callable[[int], bool] = lambda n: False
        self.miss: Callable[[int], bool] = lambda n: False
        self._got = 0
        self._sent = 0
        self._poke: set[asyncio.Event] = set()
        self._leaves()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    def _leaves(self) -> None:
        (self.folder / "root.pub").write_text(pki.raw_public_key(self.root.public_key()).hex())
        for name in ("orchestrator", "catalog"):
            leaf = pki.issue_service(self.services, f"service/{name}", (f"{name}.{DOMAIN}",), DOMAIN, datetime.now(UTC))
            # The chain holds the CA, so that a joining node finds what its token pins.
            pki.write_public(self.folder / f"{name}.crt", leaf.certificate_pem + self.services.certificate_pem)
            pki.write_private(self.folder / f"{name}.key", leaf.key_pem)
        pki.write_public(self.folder / "agents-ca.pem", self.agents.certificate_pem)

    def bundle(self) -> bytes:
        now = datetime.now(UTC)
        key = TrustedKey.of(
            self.world.contract_key.public_key(), "contract", now - timedelta(hours=1), now + timedelta(days=1)
        )
        document = TrustBundle(
            trust_domain=DOMAIN,
            sequence=self.sequence,
            issue_time=now,
            keys=(key,),
            services_ca=(self.services.certificate_pem.decode(),),
            agents_ca=(self.agents.certificate_pem.decode(),),
            witnesses=(),
        )
        return dsse.sign(document.to_bytes(), TrustBundle.NOUN, self.root)

    async def _start(self) -> None:
        files = tls.TlsFiles(
            self.folder / "orchestrator.crt", self.folder / "orchestrator.key", self.folder / "agents-ca.pem"
        )
        self.dispatch_endpoint = self.blob_endpoint = "127.0.0.1:0"
        self.blobs = Blobs(self.world.blobs, lambda: [self.world.contract_key.public_key()])
        await self._serve()
        enrollment = grpc.aio.server()
        enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(self, enrollment)
        port = enrollment.add_secure_port("127.0.0.1:0", tls.server_credentials(files, require_client=False))
        self.enrollment_endpoint = f"127.0.0.1:{port}"
        await enrollment.start()
        self._enrollment = enrollment

    async def _serve(self) -> None:
        files = tls.TlsFiles(
            self.folder / "orchestrator.crt", self.folder / "orchestrator.key", self.folder / "agents-ca.pem"
        )
        self._dispatch = grpc.aio.server()
        dispatch_pb2_grpc.add_DispatchServiceServicer_to_server(self, self._dispatch)
        port = self._dispatch.add_secure_port(self.dispatch_endpoint, tls.server_credentials(files))
        self.dispatch_endpoint = f"127.0.0.1:{port}"
        await self._dispatch.start()
        catalog = tls.TlsFiles(self.folder / "catalog.crt", self.folder / "catalog.key", self.folder / "agents-ca.pem")
        self._catalog = grpc.server(ThreadPoolExecutor(8))
        agent_blob_pb2_grpc.add_AgentBlobServiceServicer_to_server(self.blobs, self._catalog)
        port = self._catalog.add_secure_port(self.blob_endpoint, tls.server_credentials(catalog))
        self.blob_endpoint = f"127.0.0.1:{port}"
        self._catalog.start()

    def go_away(self) -> None:
        """Nobody listens any more, until `come_back`."""
        asyncio.run_coroutine_threadsafe(self._dispatch.stop(0), self._loop).result(20)
        self._catalog.stop(0).wait(20)

    def come_back(self) -> None:
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(20)

    def close(self) -> None:
        async def stop() -> None:
            for server in (self._dispatch, self._enrollment):
                await server.stop(0)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(20)
        self._catalog.stop(0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # What tests ask.

    def assign(self, order: tuple[str, bytes, bytes]) -> Known:
        self.known[order[0]] = Known(order[1], order[2])
        self.poke()
        return self.known[order[0]]

    def poke(self) -> None:
        """Speaks to every agent at once."""

        def wake() -> None:
            for event in self._poke:
                event.set()

        self._loop.call_soon_threadsafe(wake)

    # EnrollmentService.

    async def Enroll(self, request, context):  # type: ignore[no-untyped-def]
        if request.token != self.token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        if self.enroll_answer is None:
            self.used_by = request.tls_csr
            self.enroll_answer = enrollment_pb2.EnrollResponse(
                agent="agents/node-1",
                tls_certificate=self.certify(request.tls_csr),
                attestation_certificate=b"{}",
                trust_bundle=self.bundle(),
                services_ca=self.services.certificate_pem,
                dispatch_endpoint=self.dispatch_endpoint,
                blob_endpoint=self.blob_endpoint,
                trust_domain=DOMAIN,
            )
        if request.tls_csr != self.used_by:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "TOKEN_USED")
        return self.enroll_answer

    def certify(self, csr: bytes, lifetime: timedelta = pki.AGENT_LIFETIME) -> bytes:
        return pki.sign_agent(self.agents, pki.csr_public_key(csr), "node-1", DOMAIN, datetime.now(UTC), lifetime)

    # DispatchService.

    async def RenewCertificate(self, request, context):  # type: ignore[no-untyped-def]
        return pb.RenewCertificateResponse(tls_certificate=self.certify(request.tls_csr), trust_bundle=self.bundle())

    async def Connect(self, requests, context) -> AsyncIterator[pb.ControlMessage]:  # type: ignore[no-untyped-def]
        answers: asyncio.Queue[pb.ControlMessage] = asyncio.Queue()
        poke = asyncio.Event()
        self._poke.add(poke)
        sequence = 0

        async def read() -> None:
            nonlocal sequence
            async for message in requests:
                kind = message.WhichOneof("message")
                if kind == "diagnostics":
                    self.lines += message.diagnostics.lines
                    continue
                self._got += 1
                if kind != "hello" and self.miss(self._got):
                    continue
                if kind == "hello":
                    self.hellos.append(message.hello)
                    self.instances.append(message.hello.instance_id)
                    answers.put_nowait(self._welcome(message.hello))
                    sequence = self._status(message.hello.status, answers)
                elif kind == "status":
                    sequence = self._status(message.status, answers)
                else:
                    answers.put_nowait(self._events(message.events))

        async def speak() -> None:
            while True:
                await poke.wait()
                poke.clear()
                answers.put_nowait(self._directive(sequence))

        tasks = [asyncio.ensure_future(read()), asyncio.ensure_future(speak())]
        try:
            while True:
                message = await answers.get()
                if self.refusal is not None:
                    status = to_status(self.refusal, "orchestrator.animus")
                    context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
                    await context.abort(grpc.StatusCode[self.refusal.code], self.refusal.message)
                if self.silent:
                    continue
                self._sent += 1
                if message.WhichOneof("message") != "welcome" and self.lose(self._sent):
                    continue
                yield message
                if self.double(self._sent):
                    yield message
        finally:
            self._poke.discard(poke)
            for task in tasks:
                task.cancel()

    def _welcome(self, hello: pb.Hello) -> pb.ControlMessage:
        welcome = pb.Welcome(
            session=len(self.instances), trust_bundle=self.bundle(), acknowledged_seq=self.seqs.get(hello.spool_id, 0)
        )
        welcome.status_interval.FromMilliseconds(100)
        return pb.ControlMessage(welcome=welcome)

    def _status(self, status: pb.Status, answers: asyncio.Queue) -> int:
        self.held, self.room = {one.attempt for one in status.held}, status.room
        answers.put_nowait(self._directive(status.sequence))
        return status.sequence

    def _directive(self, sequence: int) -> pb.ControlMessage:
        directive = pb.Directive(status_sequence=sequence)
        for name in sorted(self.held):
            known = self.known.get(name)
            intent = Intent.INTENT_STALE if known is None else known.intent
            if known is not None and known.results and intent != Intent.INTENT_STALE:
                intent = Intent.INTENT_FORGET
            directive.attempts.add(attempt=name, intent=intent).lease_duration.FromTimedelta(
                timedelta(seconds=self.lease)
            )
        for name, known in self.known.items():
            if name not in self.held and not known.results and known.intent == Intent.INTENT_KEEP:
                one = directive.assignments.add(attempt=name, contract=known.contract, grant=known.grant)
                one.lease_duration.FromTimedelta(timedelta(seconds=self.lease))
        return pb.ControlMessage(directive=directive)

    def _events(self, events: pb.Events) -> pb.ControlMessage:
        stale: set[str] = set()
        known_seq = self.seqs.get(events.spool_id, 0)
        if events.after_seq > known_seq:
            return pb.ControlMessage(events_ack=pb.EventsAck(spool_id=events.spool_id, seq=known_seq, resend=True))
        for event in events.events:
            if event.seq <= self.seqs.get(events.spool_id, 0) or self.silent:
                continue
            self.seqs[events.spool_id] = event.seq
            self.applied.append((events.spool_id, event.seq))
            known = self.known.get(event.attempt)
            if known is None:
                stale.add(event.attempt)
                continue
            kind = event.WhichOneof("event")
            if kind == "state_changed":
                known.states.append(event.state_changed.state)
            elif kind == "log_chunk":
                known.log.setdefault(event.log_chunk.offset_bytes, event.log_chunk.data)
            elif kind == "result":
                known.results.append(event.result)
        return pb.ControlMessage(
            events_ack=pb.EventsAck(
                spool_id=events.spool_id, seq=self.seqs.get(events.spool_id, 0), stale_attempts=sorted(stale)
            )
        )


class AgentProcess:
    """`python -m animus_agent run` on a node folder, with what it takes to kill and restart it. `module`: another program
    that is an agent."""

    def __init__(
        self, control: ControlPlane, node: Path, driver: str, module: str = "animus_agent", **more: str
    ) -> None:
        self._log = node / "agent.log"
        self._module = module
        self._environment = {
            "PATH": os.environ["PATH"],
            "ANIMUS_AGENT_STATE_DIR": str(node / "state"),
            "ANIMUS_AGENT_RUN_DIR": str(node / "run"),
            "ANIMUS_AGENT_DRIVER": driver,
            "ANIMUS_AGENT_ROOT_KEY": str(control.folder / "root.pub"),
            "ANIMUS_AGENT_TMPFS_VOLUMES": "true",
            "ANIMUS_AGENT_LEASE_MARGIN": "1s",
            **more,
        }
        self._token = node / "token"
        self.enroll(control)
        self.start()

    def enroll(self, control: ControlPlane, *options: str, token: str = "") -> None:
        self._token.write_text(token or control.token)
        self._call("enroll", control.enrollment_endpoint, "--token-file", str(self._token), *options)

    def setting(self, name: str) -> str:
        return self._environment[name]

    def start(self, **more: str) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, "run"], env=self._environment | more, stderr=log, cwd=ROOT
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        self._call("purge")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _call(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "animus_agent", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def until(condition: Callable[[], object], what: str, seconds: float = 30.0, show: Callable[[], str] = str) -> None:
    """Waits for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen\n{show()[-4000:]}"
        time.sleep(0.02)


__all__ = ["AgentProcess", "Contract", "ControlPlane", "until"]
