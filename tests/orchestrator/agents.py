"""A scripted agent on the real stream: it says exactly what a test tells it to say."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from animus.agent.v1 import dispatch_pb2 as pb
from animus.agent.v1 import dispatch_pb2_grpc, enrollment_pb2, enrollment_pb2_grpc
from animus.orchestrator.v1 import agent_pb2, node_pb2, run_pb2
from animus_kit import pki
from animus_kit.digest import sha256
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract, Grant, open_contract
from animus_kit.documents.result import OutputDigest, Provenance, dependencies_of
from animus_kit.documents.sandbox import Egress, HostFingerprint, SandboxReport
from animus_orchestrator.service import planning
from tests.orchestrator.samples import digest
from tests.orchestrator.world import DEADLINE, DOMAIN, World, until

STATE = run_pb2.Attempt.State
CLASS = run_pb2.Attempt.FailureClass
INTENT = pb.AttemptDirective.Intent
CAPABILITIES = (*planning.CAPABILITIES, planning.GPU_CAPABILITY)


class Agent:
    """`hold` is what it lists; an assignment is added to it when it is seen by `take`."""

    def __init__(self, world: World, name: str = "", port: int = 0, **token: Any):
        self.world = world
        self.port = port or world.dispatch.port("dispatch")
        self.enroll_port = world.dispatch.port("enrollment")
        self.name = name or f"n{uuid.uuid4().hex[:8]}"
        self.attestation = pki.new_signing_key()
        self.key, self.csr = pki.new_csr()
        self.instance_id, self.boot_id, self.spool_id = (str(uuid.uuid4()) for _ in range(3))
        self.seq = 0
        self.hold: dict[str, int] = {}
        self.contracts: dict[str, Contract] = {}
        self.status_seq = 0
        self.slots, self.cpu, self.memory = 4, 8000, 8 << 30
        self.gpus: dict[str, str] = {}
        self.skew = 0.0
        self.session: Session | None = None
        if token.pop("enroll", True):
            self.enroll(self.token(**token))

    def token(self, **fields: Any) -> str:
        if "pool" in fields:
            self.world.pool(fields["pool"])
        request = agent_pb2.CreateJoinTokenRequest(agent_id=self.name, **fields)
        return self.world.agents.CreateJoinToken(request, **self.world.as_user()).token

    def enroll(self, token: str, **changes: Any) -> enrollment_pb2.EnrollResponse:
        credentials = grpc.ssl_channel_credentials(self.world.pki.services.certificate_pem)
        options = [("grpc.ssl_target_name_override", f"orchestrator.{DOMAIN}")]
        with grpc.secure_channel(f"127.0.0.1:{self.enroll_port}", credentials, options) as channel:
            request = {
                "token": token,
                "tls_csr": self.csr,
                "attestation_public_key": pki.raw_public_key(self.attestation.public_key()),
                "attestation_proof": self.attestation.sign(b"animus-enroll\n" + self.csr),
            }
            answer = enrollment_pb2_grpc.EnrollmentServiceStub(channel).Enroll(
                enrollment_pb2.EnrollRequest(**{**request, **changes}), timeout=DEADLINE
            )
        self.certificate = answer.tls_certificate
        return answer

    # -- the stream -----------------------------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.world.pki.services.certificate_pem, self.key, self.certificate)
        options = [
            ("grpc.ssl_target_name_override", f"orchestrator.{DOMAIN}"),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)

    def connect(self, **node: Any) -> pb.Directive:
        """Opens a session and answers the first directive."""
        self.session = Session(self.channel())
        hello = pb.Hello(
            instance_id=self.instance_id,
            boot_id=self.boot_id,
            spool_id=self.spool_id,
            node=self.node(**node),
            status=self.status(),
        )
        self.session.send(pb.AgentMessage(hello=hello))
        self.welcome = self.session.expect("welcome")
        self.seq = max(self.seq, self.welcome.acknowledged_seq)
        return self._kept(self.session.expect("directive"))

    def _kept(self, directive: pb.Directive) -> pb.Directive:
        """New work in it can still be taken."""
        if directive.assignments:
            self.session.put_back(pb.ControlMessage(directive=directive))
        return directive

    def node(self, **changes: Any) -> node_pb2.NodeInfo:
        values = {
            "hostname": self.name,
            "platform": "linux/amd64",
            "agent_version": "0.1.0",
            "cpu_millis": self.cpu,
            "memory_bytes": self.memory,
            "gpus": [{"uuid": uuid, "model": model} for uuid, model in self.gpus.items()],
            "capabilities": [{"name": c, "available": True} for c in CAPABILITIES],
        }
        return node_pb2.NodeInfo(**{**values, **changes})

    def status(self) -> pb.Status:
        self.status_seq += 1
        busy = {u for a in self.hold if a in self.contracts for u in self.contracts[a].gpu_uuids or ()}
        used = sum(self.contracts[a].resources.cpu_millis for a in self.hold if a in self.contracts)
        status = pb.Status(
            sequence=self.status_seq,
            held=[pb.HeldAttempt(attempt=a, state=s) for a, s in self.hold.items()],
            room=pb.Room(
                attempts=max(0, self.slots - len(self.hold)),
                cpu_millis=max(0, self.cpu - used),
                memory_bytes=self.memory,
                gpu_uuids=[uuid for uuid in self.gpus if uuid not in busy],
            ),
        )
        status.client_time.FromDatetime(datetime.fromtimestamp(time.time() + self.skew, UTC))
        return status

    def report(self) -> pb.Directive:
        """Sends its status and answers the directive that answers it."""
        status = self.status()
        self.session.send(pb.AgentMessage(status=status))
        return self._kept(self.session.expect("directive", lambda d: d.status_sequence == status.sequence))

    def take(self, count: int = 1) -> list[pb.Assignment]:
        """Waits for new assignments, verifies and lists them."""
        found: list[pb.Assignment] = []
        while len(found) < count:
            directive = self.session.expect("directive", lambda d: self._new(d))
            for one in self._new(directive):
                self.accept(one)
                found.append(one)
        return found

    def _new(self, directive: pb.Directive) -> list[pb.Assignment]:
        return [a for a in directive.assignments if a.attempt not in self.contracts]

    def accept(self, one: pb.Assignment) -> tuple[Contract, Grant]:
        contract, grant = open_contract(
            one.contract, one.grant, [self.world.pki.contract.public_key()], f"agents/{self.name}"
        )
        assert contract.attempt == one.attempt
        self.contracts[one.attempt] = contract
        self.hold[one.attempt] = STATE.STATE_LEASED
        return contract, grant

    def intent(self, attempt: str, directive: pb.Directive) -> str:
        return next(INTENT.Name(d.intent)[7:] for d in directive.attempts if d.attempt == attempt)

    # -- events ---------------------------------------------------------------------------------------------------

    def event(self, attempt: str, **what: Any) -> pb.SpoolEvent:
        self.seq += 1
        return pb.SpoolEvent(seq=self.seq, attempt=attempt, **what)

    def send(self, *events: pb.SpoolEvent) -> None:
        self.session.send(pb.AgentMessage(events=pb.Events(spool_id=self.spool_id, events=events)))

    def tell(self, *events: pb.SpoolEvent) -> pb.EventsAck:
        """Sends events and waits until they are durable."""
        self.send(*events)
        last = max(e.seq for e in events)
        return self.session.expect("events_ack", lambda a: a.seq >= last)

    def running(self, attempt: str) -> pb.EventsAck:
        self.hold[attempt] = STATE.STATE_RUNNING
        return self.tell(
            *(
                self.event(attempt, state_changed=pb.StateChanged(state=s))
                for s in (STATE.STATE_PREPARING, STATE.STATE_RUNNING)
            )
        )

    def fail(self, attempt: str, failure: int = CLASS.FAILURE_CLASS_USER_ERROR, **kw: Any) -> pb.EventsAck:
        result = pb.AttemptResult(
            state=STATE.STATE_FAILED, failure_class=failure, reason="EXIT_STATUS", message="it broke", exit_code=1, **kw
        )
        self.hold.pop(attempt, None)
        return self.tell(self.event(attempt, result=result))

    def succeed(self, attempt: str, **kw: Any) -> pb.EventsAck:
        self.hold.pop(attempt, None)
        return self.tell(self.event(attempt, result=self.result(attempt, **kw)))

    def result(
        self,
        attempt: str,
        metrics: dict[str, float] | None = None,
        contract: Contract | None = None,
        key: Any = None,
        report_gpus: tuple[str, ...] | None = None,
        report_egress: tuple[str, ...] | None = None,
        **changes: Any,
    ) -> pb.AttemptResult:
        """A true result of this attempt, but for `changes`."""
        contract = contract or self.contracts[attempt]
        outputs = [
            OutputDigest(name=o.name, manifest=digest(f"{contract.action_digest}/{o.name}"), files=1, bytes=10)
            for o in contract.action.outputs
        ]
        host = HostFingerprint(platform="linux/amd64", kernel="6.1", cpu_model="test", gpus=(), libraries={})
        allow = contract.action.network.allow if report_egress is None else report_egress
        report = SandboxReport(
            attempt=contract.attempt,
            driver="fake",
            runtime="fake 1",
            seccomp_profile="animus-seccomp-v1",
            features=(),
            resources=contract.resources,
            limits=contract.limits,
            gpus=(contract.gpu_uuids or ()) if report_gpus is None else report_gpus,
            counters={},
            egress=Egress(allow=allow, decisions=(), unlisted=0) if allow else None,
            host=host,
            host_class=host.host_class,
        ).to_bytes()
        now = datetime.now(UTC)
        statement = Provenance(
            attempt=contract.attempt,
            agent=contract.agent,
            agent_version="0.1.0",
            contract_digest=contract.digest,
            plan_digest=contract.plan_digest,
            recipe_digest=contract.recipe_digest,
            action_digest=contract.action_digest,
            dependencies=dependencies_of(contract),
            outputs=tuple(outputs),
            metrics=metrics or {},
            exit_code=0,
            sandbox_report_digest=sha256(report),
            start_time=now,
            end_time=now,
        )
        values: dict[str, Any] = {
            "state": STATE.STATE_SUCCEEDED,
            "exit_code": 0,
            "outputs": [
                {"name": o.name, "manifest_digest": o.manifest, "file_count": o.files, "size_bytes": o.bytes}
                for o in outputs
            ],
            "metrics": [{"name": n, "value": v} for n, v in (metrics or {}).items()],
            "sandbox_report": report,
            "provenance": dsse.sign(statement.to_bytes(), Provenance.NOUN, key or self.attestation),
        }
        return pb.AttemptResult(**{**values, **changes})

    def close(self) -> None:
        if self.session is not None:
            self.session.close()


class Session:
    """One stream: what was received, in order, and what ended it."""

    def __init__(self, channel: grpc.Channel):
        self._channel = channel
        self._out: queue.Queue[pb.AgentMessage | None] = queue.Queue()
        self._seen: list[pb.ControlMessage] = []
        self._news = threading.Condition()
        self.error: grpc.RpcError | None = None
        self.ended = False
        self._call = dispatch_pb2_grpc.DispatchServiceStub(channel).Connect(iter(self._out.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for message in self._call:
                with self._news:
                    self._seen.append(message)
                    self._news.notify_all()
        except grpc.RpcError as error:
            self.error = error
        with self._news:
            self.ended = True
            self._news.notify_all()

    def send(self, message: pb.AgentMessage) -> None:
        self._out.put(message)

    def expect(self, kind: str, accept: Callable[[Any], Any] = lambda _: True) -> Any:
        """The next message of a kind that is accepted; it is taken out, others stay."""
        end = time.monotonic() + DEADLINE
        with self._news:
            while True:
                for i, message in enumerate(self._seen):
                    if message.WhichOneof("message") == kind and accept(getattr(message, kind)):
                        del self._seen[i]
                        return getattr(message, kind)
                if self.ended:
                    raise AssertionError(f"the stream ended: {self.error}")
                left = end - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    raise AssertionError(f"no {kind} came")

    def put_back(self, message: pb.ControlMessage) -> None:
        with self._news:
            self._seen.append(message)

    def wait_end(self) -> grpc.RpcError | None:
        until(lambda: self.ended)
        return self.error

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()
