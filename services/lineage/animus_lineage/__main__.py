"""python -m animus_lineage serve | migrate | restored | rebuild"""

import sys

from animus.audit.v1 import ingest_pb2_grpc
from animus.lineage.v1 import graph_pb2_grpc
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.db.denials import Denials
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision
from animus_kit.db.sequencer import Sequencer
from animus_kit.db.tail import Tail
from animus_kit.server import program
from animus_kit.server.door import Door
from animus_kit.server.program import Command
from animus_kit.server.serve import WORKERS, Process

from . import rebuild
from .domain.facts import EVENT_TYPES
from .permissions import ROWS
from .service.graph import GraphService
from .settings import RebuildSettings, Settings
from .store.snapshot import TAIL
from .tail.facts import apply


def build(it: Settings) -> Process:
    """The whole process, not yet started."""
    clock = SystemClock()
    # A connection for each worker, and one each for the tail and denials.
    engine = create_engine(it.dsn, WORKERS + 2, application_name="lineage")
    check_revision(engine, "animus_lineage")
    denials = Denials(engine, "lineage", clock)
    access = it.policy_access(clock, WORKERS)
    door = Door("lineage", it.trust_domain, ROWS, it.verifier(clock), access, denials, it.read_actor_key())
    ingest = ingest_pb2_grpc.EventIngestServiceStub(dial(it.audit_target, "audit", it.tls, it.trust_domain))
    events = ingest_pb2_grpc.EventTailServiceStub(dial(it.audit_stream_target, "audit", it.tls, it.trust_domain))
    graph = GraphService(engine)
    process = Process("lineage", it.metrics_listen, it.reflection)
    process.sync(
        it.listen, it.tls, door, lambda server: graph_pb2_grpc.add_GraphServiceServicer_to_server(graph, server)
    )
    tail = Tail(TAIL, engine, events, apply, EVENT_TYPES)
    return process.task(tail, denials, Sequencer(it.dsn, "lineage", ingest))


def rebuild_view(it: RebuildSettings) -> int:
    """Drops the view and fills it from the log. Returns the index reached."""
    engine = create_engine(it.dsn, 2, application_name="lineage rebuild")
    log_stub = ingest_pb2_grpc.EventTailServiceStub(dial(it.audit_stream_target, "audit", it.tls, it.trust_domain))
    rebuild.drop(it.migrate_dsn)
    return rebuild.fill(engine, log_stub)


def main(arguments: list[str]) -> int:
    commands = {
        "serve": ("lineage", Command(Settings, lambda it: build(it).serve())),
        "rebuild": ("lineage", Command(RebuildSettings, lambda it: print(rebuild_view(it)))),
        **program.of_database("lineage"),
    }
    return program.run(__doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
