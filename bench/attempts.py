"""Attempts leased, reported and committed by dispatch's writer, beside SKIP LOCKED lease and complete, batched.

    .venv/bin/python -m bench.attempts [attempts]

The runs are submitted to a real API; then the writer of dispatch, alone in this process and on that database, serves
agents that do nothing: each answer's assignments come back as signed results in the next batch. Contracts and grants are
signed, provenance is verified, and each attempt's three events go to the outbox in the same transactions. Making the
agents' messages is not timed; the stream, its TLS and the way of the events to the log are left out.
"""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus_kit import pki
from animus_kit.clock import SystemClock
from animus_kit.db.engine import create_engine, transaction
from animus_kit.digest import sha256
from animus_kit.documents import dsse
from animus_kit.documents.contract import Contract
from animus_kit.documents.result import Provenance, dependencies_of
from animus_kit.documents.sandbox import HostFingerprint, SandboxReport
from animus_kit.ids import RandomIds
from animus_orchestrator.dispatch.contracts import Contracts
from animus_orchestrator.dispatch.work import EventsWork, Open, SessionState
from animus_orchestrator.dispatch.writer import Limits, Writer
from animus_orchestrator.service.planning import CAPABILITIES
from animus_orchestrator.store import agents as agent_store
from bench import control
from bench.local import folder
from bench.report import Line, emit, tell
from tests.orchestrator.world import World

NAME = "attempts"
AGENTS = 8
SLOTS = 8
BUDGET = 1000
STATE = run_pb2.Attempt.State


@dataclass
class Idler:
    """An agent that has never been on a wire, and says that everything has succeeded."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=pki.new_signing_key)
    spool: str = field(default_factory=lambda: str(uuid.uuid4()))
    seq: int = 0
    session: SessionState | None = None
    directive: pb.Directive = field(default_factory=pb.Directive)

    def hello(self) -> Open:
        node = {
        "platform": "linux/amd64", "cpu_millis": 64_000, "memory_bytes": 1 << 40,
        "capabilities": [{"name": c, "available": True} for c in CAPABILITIES],
    }  # fmt: skip
        status = pb.Status(sequence=1, room={"attempts": SLOTS, "cpu_millis": 64_000, "memory_bytes": 1 << 40})
        status.client_time.GetCurrentTime()
        return Open(
            self.name, "1", pb.Hello(instance_id=str(uuid.uuid4()), spool_id=self.spool, node=node, status=status)
        )

    def report(self) -> EventsWork | None:
        """RUNNING and the result of all it was just given."""
        events = []
        for given in self.directive.assignments:
            running = pb.StateChanged(state=STATE.STATE_RUNNING)
            result = succeeded(Contract.from_bytes(dsse.open_unverified(given.contract, Contract.NOUN)[0]), self.key)
            self.seq += 2
            events.append(pb.SpoolEvent(seq=self.seq - 1, attempt=given.attempt, state_changed=running))
            events.append(pb.SpoolEvent(seq=self.seq, attempt=given.attempt, result=result))
        assert self.session is not None
        return EventsWork(self.session, pb.Events(spool_id=self.spool, events=events)) if events else None


def main(attempts: int) -> None:
    with control.database() as database, folder() as keys:
        floor = floor_rate(database.admin_dsn, attempts)
        with World(database, keys) as world:
            control.submit(world, attempts)
            key = world.pki.contract
        tell(f"{attempts} steps are ready")
        rate, detail = commit_rate(database.dsn("orchestrator"), key, attempts)
    line = Line(
        f"attempts leased, reported and committed, {AGENTS} agents with room for {SLOTS}", "attempts/s", floor, rate,
        f"SKIP LOCKED lease and complete, batches of {AGENTS * SLOTS}", f"≥ {BUDGET}", rate >= BUDGET, detail,
    )  # fmt: skip
    emit(NAME, line)


def commit_rate(dsn: str, key: Ed25519PrivateKey, attempts: int) -> tuple[float, dict[str, float]]:
    """Attempts a second, and what of an attempt's time was the writer's own processor time."""
    engine, clock, limits = create_engine(dsn, 2), SystemClock(), Limits()
    writer = Writer(engine, Contracts(key, RandomIds(), limits.agent_lease), clock, limits)
    agents = [Idler(f"idle-{number}") for number in range(AGENTS)]
    with transaction(engine) as conn:
        for agent in agents:
            agent_store.insert(conn, row(agent, clock.now()))
    for agent, opened in zip(agents, checked(writer.apply([agent.hello() for agent in agents])), strict=True):
        agent.session, agent.directive = opened.session, opened.directive
    done, spent, cpu, batches = 0, 0.0, 0.0, 0
    while done < attempts:
        works = [(agent, work) for agent in agents if (work := agent.report()) is not None]
        if not works:
            raise RuntimeError(f"no agent was given anything after {done} of {attempts}")
        begin, used = time.perf_counter(), time.thread_time()
        answers = checked(writer.apply([work for _, work in works]))
        spent += time.perf_counter() - begin
        cpu += time.thread_time() - used
        batches += 1
        done += sum(len(work.events.events) // 2 for _, work in works)
        for (agent, _), answer in zip(works, answers, strict=True):
            agent.directive = next((m.directive for m in answer if m.HasField("directive")), pb.Directive())
    engine.dispose()
    detail = {"ms": spent / done * 1000, "writer_cpu_ms": cpu / done * 1000, "attempts_a_batch": done / batches}
    return done / spent, {name: round(value, 3) for name, value in detail.items()}


def floor_rate(dsn: str, attempts: int) -> float:
    """The least that a queue in PostgreSQL does: two transactions for each batch, one table, 1 KB of document."""
    batch = AGENTS * SLOTS
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE floor (id bigserial PRIMARY KEY, state text NOT NULL, agent text, document bytea)")
        conn.execute("CREATE INDEX floor_ready ON floor (id) WHERE state = 'READY'")
        conn.execute(
            "INSERT INTO floor (state, document) SELECT 'READY', decode(repeat('ab', 1024), 'hex')"
            " FROM generate_series(1, %s)", (attempts,)
        )  # fmt: skip
        begin, done = time.perf_counter(), 0
        while done < attempts:
            leased = conn.execute(
                "UPDATE floor SET state = 'LEASED', agent = 'a' WHERE id IN (SELECT id FROM floor WHERE state = 'READY'"
                " ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id", (batch,)
            ).fetchall()  # fmt: skip
            conn.execute("UPDATE floor SET state = 'DONE' WHERE id = ANY(%s)", ([id for (id,) in leased],))
            done += len(leased)
        rate = done / (time.perf_counter() - begin)
        conn.execute("DROP TABLE floor")
    return rate


def checked(answers: list) -> list:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def row(agent: Idler, now: datetime) -> dict[str, object]:
    return {
        "id": agent.name,
        "pool": "default",
        "projects": [],
        "attestation_key": pki.raw_public_key(agent.key.public_key()),
        "attestation_certificate": b"",
        "attestation_not_after": now + timedelta(days=1),
        "serial": "1",
        "certificate": b"",
        "certificate_expire_time": now,
        "enroll_time": now,
    }


def succeeded(contract: Contract, key: Ed25519PrivateKey) -> pb.AttemptResult:
    """What an agent would say of a step without outputs."""
    host = HostFingerprint(platform="linux/amd64", kernel="6", cpu_model="bench", gpus=(), libraries={})
    report = SandboxReport(
        attempt=contract.attempt, driver="fake", runtime="fake 1", seccomp_profile="animus-seccomp-v1", features=(),
        resources=contract.resources, limits=contract.limits, gpus=(), counters={}, host=host,
        host_class=host.host_class,
    ).to_bytes()  # fmt: skip
    now = datetime.now(UTC)
    statement = Provenance(
        attempt=contract.attempt, agent=contract.agent, agent_version="0.1.0", contract_digest=contract.digest,
        plan_digest=contract.plan_digest, recipe_digest=contract.recipe_digest, action_digest=contract.action_digest,
        dependencies=dependencies_of(contract), outputs=(), metrics={}, exit_code=0,
        sandbox_report_digest=sha256(report), start_time=now, end_time=now,
    )  # fmt: skip
    provenance = dsse.sign(statement.to_bytes(), Provenance.NOUN, key)
    return pb.AttemptResult(
        state=STATE.STATE_SUCCEEDED, exit_code=0, sandbox_report=report, provenance=provenance
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
