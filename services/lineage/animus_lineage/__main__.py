"""python -m animus_lineage serve | migrate | rebuild"""

import os

from animus.audit.v1 import ingest_pb2_grpc
from animus.lineage.v1 import graph_pb2_grpc
from animus_kit import settings
from animus_kit.channel import dial
from animus_kit.db.engine import create_engine
from animus_kit.db.tail import Tail
from animus_kit.server import wiring
from animus_kit.server.serve import Process
from animus_kit.server.wiring import Wiring
from animus_kit.tls import TlsFiles

from . import rebuild
from .domain.facts import EVENT_TYPES
from .permissions import ROWS
from .service.graph import GraphService
from .settings import RebuildSettings, Settings
from .store.snapshot import TAIL
from .tail.facts import apply


def build(it: Settings) -> Process:
    """The whole process, not yet started."""
    parts = Wiring("lineage", it, ROWS)
    graph = GraphService(parts.engine)
    process = parts.process()
    process.sync(
        it.listen,
        parts.tls,
        parts.door,
        lambda server: graph_pb2_grpc.add_GraphServiceServicer_to_server(graph, server),
        workers=it.workers,
    )
    log = ingest_pb2_grpc.EventTailServiceStub(parts.dial("audit", it.audit_stream_target))
    tail = Tail(TAIL, parts.engine, log, apply, EVENT_TYPES)
    return process.task(tail, parts.sequencer(), parts.door.denials)


def serve() -> None:
    build(settings.load(Settings, os.environ)).serve()


def rebuild_view() -> None:
    """Drops the view and fills it from the log; prints the index reached."""
    it = settings.load(RebuildSettings, os.environ)
    channel = dial(it.audit_stream_target, "audit", TlsFiles(it.tls_cert, it.tls_key, it.services_ca), it.trust_domain)
    engine = create_engine(it.dsn_file.read_text().strip(), 2, application_name="lineage rebuild")
    rebuild.drop(it.migrate_dsn_file.read_text().strip())
    print(rebuild.fill(engine, ingest_pb2_grpc.EventTailServiceStub(channel)))


if __name__ == "__main__":
    wiring.main("lineage", serve, rebuild=rebuild_view)
