"""python -m animus_audit serve | migrate | restored | verify"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from animus.audit.v1 import event_pb2_grpc, event_stream_pb2_grpc, ingest_pb2_grpc
from animus_kit.clock import SystemClock
from animus_kit.db.denials import Denials
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision
from animus_kit.db.sequencer import Sequencer
from animus_kit.ids import RandomIds
from animus_kit.server import program
from animus_kit.server.door import Door
from animus_kit.server.program import Command
from animus_kit.server.serve import WORKERS, Process

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
    clock = SystemClock()
    # A connection for each worker and each reader, and one each for the writer, the follower and denials.
    engine = create_engine(it.dsn, WORKERS + READERS + 3, application_name="audit")
    check_revision(engine, "animus_audit")
    access = it.policy_access(clock, WORKERS)
    denials = Denials(engine, "audit", clock)
    door = Door("audit", it.trust_domain, ROWS, it.verifier(clock), access, denials, it.read_actor_key())
    writer = Writer(engine, clock, RandomIds().uuid())
    follower = Follower(engine)
    reader = LogReader(engine, follower, ThreadPoolExecutor(READERS, thread_name_prefix="log-reader"))
    events, ingest = EventService(engine, access, denials), EventIngestService(writer)
    tail, stream = EventTailService(reader), EventStreamService(reader)
    process = Process("audit", it.metrics_listen, it.reflection)
    process.sync(
        it.listen,
        it.tls,
        door,
        lambda server: event_pb2_grpc.add_EventServiceServicer_to_server(events, server),
        lambda server: ingest_pb2_grpc.add_EventIngestServiceServicer_to_server(ingest, server),
    )
    process.aio(
        it.stream_listen,
        it.tls,
        door,
        lambda server: ingest_pb2_grpc.add_EventTailServiceServicer_to_server(tail, server),
        lambda server: event_stream_pb2_grpc.add_EventStreamServiceServicer_to_server(stream, server),
    )
    # audit is a source like every other, and delivers to its own writer, which therefore ends after the sequencer.
    sequencer = Sequencer(it.dsn, "audit", LocalDelivery(writer))
    return process.task(denials, sequencer, writer, follower)


def check(it: VerifySettings) -> int:
    report = verify(create_engine(it.dsn, 1, application_name="audit verify"))
    print(json.dumps(vars(report), indent=2))
    return 0 if report.ok else 1


def main(arguments: list[str]) -> int:
    commands = {
        "serve": ("audit", Command(Settings, lambda it: build(it).serve())),
        "verify": ("audit", Command(VerifySettings, check)),
        **program.of_database("audit"),
    }
    return program.run(__doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
