"""python -m animus_orchestrator serve | dispatch | migrate"""

import os
import sys

from animus_kit import log, settings
from animus_kit.clock import SystemClock
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import check_revision, upgrade
from animus_kit.ids import RandomIds
from animus_kit.server.common import MigrateSettings
from animus_kit.server.serve import WORKERS
from animus_orchestrator import wiring
from animus_orchestrator.settings import DispatchSettings, ServeSettings

PACKAGE = "animus_orchestrator"


def _parts(dsn: str, pool: int, program: str) -> wiring.Parts:
    engine = create_engine(dsn, pool, application_name=program)
    check_revision(engine, PACKAGE)
    return wiring.Parts(engine, SystemClock(), RandomIds())


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serve"]:
            it = settings.load(ServeSettings, os.environ)
            log.configure("orchestrator", it.log_level)
            parts = _parts(it.dsn, wiring.SERVE_POOL, "orchestrator")
            verifier, access = it.verifier(parts.clock), it.policy_access(parts.clock, WORKERS)
            wiring.build_serve(it, parts, verifier, access).serve()
        case ["dispatch"]:
            it = settings.load(DispatchSettings, os.environ)
            log.configure("dispatch", it.log_level)
            wiring.build_dispatch(it, _parts(it.dsn, wiring.DISPATCH_POOL, "dispatch")).serve()
        case ["migrate"]:
            it = settings.load(MigrateSettings, os.environ)
            log.configure("orchestrator", it.log_level)
            upgrade(it.migrate_dsn, PACKAGE)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
