"""The control plane of the orchestrator alone, on a durable PostgreSQL of its own: for what needs no sandbox.

Both programs are the real ones over real mutual TLS; catalog, policy and audit are the tests' fakes, so that what is
measured is dispatch. Once the work is submitted the programs are ended, except where a measurement wants them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from animus.orchestrator.v1 import run_pb2
from animus_kit.db.embedded import Embedded
from animus_kit.db.migrate import upgrade
from animus_kit.db.provision import provision
from animus_kit.testing.postgres import PASSWORD, SERVICES, Database
from bench.local import folder
from tests.orchestrator.samples import pipeline, step_yaml
from tests.orchestrator.world import World

DATABASE = "animus"


@contextmanager
def database() -> Iterator[Database]:
    """The orchestrator's, migrated, with fsync as in production."""
    with folder() as root, Embedded(root / "pg").running() as server:
        server.create_database(DATABASE)
        provision(server.dsn(DATABASE), dict.fromkeys(SERVICES, PASSWORD))
        upgrade(server.dsn(DATABASE), "animus_orchestrator")
        yield Database(server, DATABASE)


def submit(world: World, steps: int, of_a_run: int = 100) -> None:
    """Runs of independent steps without inputs and outputs."""
    project = world.project()
    wide = pipeline(*(step_yaml(f"s{number}", outputs="[]", cpu="10m", memory="1Mi") for number in range(of_a_run)))
    for _ in range(steps // of_a_run):
        world.submit(project, wide, bindings=run_pb2.Bindings())
