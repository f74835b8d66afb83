"""python -m animus_audit serve | migrate | verify"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from animus.audit.v1 import event_pb2_grpc, event_stream_pb2_grpc, ingest_pb2_grpc
from animus_kit import settings
from animus_kit.db.engine import create_engine
from animus_kit.db.sequencer import Sequencer
from animus_kit.server import wiring
from animus_kit.server.serve import Process
from animus_kit.server.wiring import Wiring

from .follower import Follower
from .permissions import ROWS
from .service.events import EventService
from .service.ingest import EventIngestService, LocalDelivery
from .service.tail import EventStreamService, EventTailService, LogReader
from .settings import Settings, VerifySettings
from .verify import verify
from .writer import Writer

# Threads that read for streams.
READERS = 4


def build(it: Settings) -> Process:
    """The whole process, not yet started."""
    parts = Wiring("audit", it, ROWS)
    writer = Writer(parts.engine, parts.clock, parts.ids.uuid())
    follower = Follower(parts.engine)
    reader = LogReader(parts.engine, follower, ThreadPoolExecutor(READERS, thread_name_prefix="log-reader"))
    events = EventService(parts.engine, parts.policy_access, parts.door.denials)
    ingest = EventIngestService(writer)
    tail, stream = EventTailService(reader), EventStreamService(reader)
    process = parts.process()
    process.sync(
        it.listen,
        parts.tls,
        parts.door,
        lambda server: event_pb2_grpc.add_EventServiceServicer_to_server(events, server),
        lambda server: ingest_pb2_grpc.add_EventIngestServiceServicer_to_server(ingest, server),
        workers=it.workers,
    )
    process.aio(
        it.stream_listen,
        parts.tls,
        parts.door,
        lambda server: ingest_pb2_grpc.add_EventTailServiceServicer_to_server(tail, server),
        lambda server: event_stream_pb2_grpc.add_EventStreamServiceServicer_to_server(stream, server),
    )
    # audit is a source like every other, and delivers to its own writer.
    sequencer = Sequencer(it.dsn, "audit", LocalDelivery(writer))
    return process.task(follower, writer, sequencer, parts.door.denials)


def serve() -> None:
    build(settings.load(Settings, os.environ)).serve()


def check() -> None:
    """Exit status 1 for a log that does not hold together."""
    it = settings.load(VerifySettings, os.environ)
    report = verify(create_engine(it.dsn_file.read_text().strip(), 1))
    print(json.dumps(vars(report), indent=2))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    wiring.main("audit", serve, verify=check)
