"""python -m animus_orchestrator serve | dispatch | migrate | restored"""

import sys

from animus_kit.clock import SystemClock
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision
from animus_kit.ids import RandomIds
from animus_kit.server import program
from animus_kit.server.program import Command
from animus_kit.server.serve import WORKERS
from animus_orchestrator import wiring
from animus_orchestrator.settings import DispatchSettings, ServeSettings

PACKAGE = "animus_orchestrator"


def _parts(dsn: str, pool: int, program: str) -> wiring.Parts:
    engine = create_engine(dsn, pool, application_name=program)
    check_revision(engine, PACKAGE)
    return wiring.Parts(engine, SystemClock(), RandomIds())


def serve(it: ServeSettings) -> None:
    parts = _parts(it.dsn, wiring.SERVE_POOL, "orchestrator")
    verifier, access = it.verifier(parts.clock), it.policy_access(parts.clock, WORKERS)
    wiring.build_serve(it, parts, verifier, access).serve()


def dispatch(it: DispatchSettings) -> None:
    wiring.build_dispatch(it, _parts(it.dsn, wiring.DISPATCH_POOL, "dispatch")).serve()


def main(arguments: list[str]) -> int:
    commands = {
        "serve": ("orchestrator", Command(ServeSettings, serve)),
        "dispatch": ("dispatch", Command(DispatchSettings, dispatch)),
        **program.of_database("orchestrator"),
    }
    return program.run(__doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
