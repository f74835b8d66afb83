"""AppendEvents over mTLS gRPC into a real audit process, beside the raw floor: pipelined inserts, batch 100.

    .venv/bin/python -m bench.audit_append [seconds for each case]

PostgreSQL (embedded, fsync on), audit and the senders share this machine. Events are made before the clock runs: what
is measured is the wire, the checks, the group commit and the tree. After it, `verify` reads the log back.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc
from animus_audit.verify import verify
from animus_kit.channel import dial
from animus_kit.db.embedded import Embedded
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import upgrade
from animus_kit.db.provision import provision
from animus_kit.documents.event import build_envelope, build_payload
from animus_kit.testing.pki import TRUST_DOMAIN, TestPki
from animus_kit.tls import TlsFiles
from bench.local import folder as temporary_folder
from bench.report import Line, emit, tell

SOURCES = ("catalog", "orchestrator", "policy", "lineage")
NAME = "audit_append"
FLOOR_BATCH = 100
FLOOR_IS = f"pipelined inserts into one table, batch {FLOOR_BATCH}"
BUDGET = 10_000
# (senders, events a batch)
CASES = ((1, 100), (4, 100), (4, 500))


def main(seconds: float) -> None:
    with temporary_folder() as folder, Embedded(folder / "pg").running() as server:
        server.create_database("animus")
        provision(server.dsn("animus"), {"audit": "bench"})
        upgrade(server.dsn("animus"), "animus_audit")
        dsn = server.dsn("animus", "audit", "bench")
        pki = TestPki(folder / "pki")
        audit, target = start_audit(folder, dsn, pki)
        try:
            for senders, batch in CASES:
                # Beside each case, since what the machine gives changes.
                floor = floor_rate(server.dsn("animus"), seconds / 2)
                rate = append_rate(pki, target, senders, batch, seconds)
                what = f"AppendEvents over mTLS, {senders} source(s), batches of {batch}"
                emit(NAME, Line(what, "events/s", floor, rate, FLOOR_IS, f"≥ {BUDGET}", rate >= BUDGET))
        finally:
            audit.terminate()
            audit.wait(15)
        checked = verify(create_engine(dsn, 1))
        tell(f"the log read back: {checked.size} events, {'whole' if checked.ok else checked.problems}")
    if not checked.ok:
        raise SystemExit(1)


def floor_rate(dsn: str, seconds: float) -> int:
    """The database alone, one connection, no checks, no indices but the key: 500 bytes and a hash a row."""
    row = os.urandom(32), json.dumps({"x": "y" * 480})
    done, at = 0, time.perf_counter()
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TEMP TABLE warm (i int)")
        conn.execute("CREATE TABLE floor (index bigint PRIMARY KEY, leaf bytea, body jsonb)")
        conn.commit()
        while time.perf_counter() - at < seconds:
            with conn.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO floor VALUES (%s, %s, %s)", [(done + i, *row) for i in range(FLOOR_BATCH)]
                )
            conn.commit()
            done += FLOOR_BATCH
        rate = done / (time.perf_counter() - at)
        conn.execute("DROP TABLE floor")
        conn.commit()
    return round(rate)


def start_audit(folder: Path, dsn: str, pki: TestPki) -> tuple[subprocess.Popen, str]:
    files = pki.files("service/audit")
    (folder / "actor.key").write_bytes(os.urandom(32))
    (folder / "jwks.json").write_text('{"keys": []}')
    port, stream_port = free_port(), free_port()
    environment = {
        "ANIMUS_DSN": dsn,
        "ANIMUS_TLS_CERT": files.cert,
        "ANIMUS_TLS_KEY": files.key,
        "ANIMUS_TLS_CA": files.ca,
        "ANIMUS_ACTOR_KEY": folder / "actor.key",
        "ANIMUS_OIDC_ISSUER": "https://bench.invalid",
        "ANIMUS_OIDC_KEYS": folder / "jwks.json",
        "ANIMUS_POLICY_TARGET": "127.0.0.1:1",
        "ANIMUS_LISTEN": f"127.0.0.1:{port}",
        "ANIMUS_STREAM_LISTEN": f"127.0.0.1:{stream_port}",
        "ANIMUS_LOG_LEVEL": "WARNING",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "animus_audit", "serve"], env=os.environ | {k: str(v) for k, v in environment.items()}
    )
    return process, f"127.0.0.1:{port}"


def append_rate(pki: TestPki, target: str, senders: int, batch: int, seconds: float) -> int:
    """Each sender is one source, which waits for each answer before it sends the next batch, as a sequencer does."""
    go, counts = threading.Event(), [0] * senders
    threads = [
        threading.Thread(target=send, args=(pki, target, SOURCES[i], batch, seconds, go, counts, i))
        for i in range(senders)
    ]
    for thread in threads:
        thread.start()
    ready.acquire_all(senders)
    at = time.perf_counter()
    go.set()
    for thread in threads:
        thread.join()
    return round(sum(counts) / (time.perf_counter() - at))


class _Ready:
    def __init__(self) -> None:
        self._semaphore = threading.Semaphore(0)
        self.one = self._semaphore.release

    def acquire_all(self, count: int) -> None:
        for _ in range(count):
            self._semaphore.acquire()


ready = _Ready()


def send(pki, target, source, batch, seconds, go, counts, place) -> None:
    files: TlsFiles = pki.files(f"service/{source}")
    generation = str(uuid.uuid4())
    # More than can be sent; serialised before, since the sender's work is not what is measured.
    most = int(40_000 * seconds / len(SOURCES)) if len(counts) > 1 else int(25_000 * seconds)
    requests = [make(source, generation, first, batch) for first in range(1, most, batch)]
    options = [("grpc.use_local_subchannel_pool", 1)]
    with dial(target, "audit", files, TRUST_DOMAIN, options=options) as channel:
        stub = rpc.EventIngestServiceStub(channel)
        stub.AppendEvents(requests[0], wait_for_ready=True, timeout=60)
        ready.one()
        go.wait()
        end = time.perf_counter() + seconds
        for request in requests[1:]:
            stub.AppendEvents(request, timeout=60)
            counts[place] += batch
            if time.perf_counter() > end:
                return
        print(f"{source}: ran out of prepared events", file=sys.stderr)


def make(source: str, generation: str, first: int, count: int) -> pb.AppendEventsRequest:
    payload = build_payload(f"{source}.attempt.leased", {"attempt": "x" * 60, "agent": "node-1", "n": "y" * 100})
    request = pb.AppendEventsRequest(generation=generation)
    for seq in range(first, first + count):
        salt = os.urandom(32)
        envelope = build_envelope(
            id=str(uuid.uuid4()),
            source=source,
            generation=generation,
            seq=seq,
            event_type=f"{source}.attempt.leased",
            time=datetime.now(UTC),
            project=f"projects/p{seq % 20}",
            resource=f"projects/p{seq % 20}/runs/r{seq // 10}/steps/train/attempts/1",
            actor="service/orchestrator",
            request_id=str(uuid.uuid4()),
            salt=salt,
            payload=payload,
        )
        request.events.add(seq=seq, envelope=envelope, payload=payload, salt=salt)
    return request


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)
