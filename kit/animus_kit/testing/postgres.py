"""One PostgreSQL for a whole test run, whatever its number of workers; a database of its own for each module.

The databases are clones of a template that is migrated once for each set of services. Durability is off: what tests
kill are our processes, not the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from animus_kit.db.embedded import Embedded, EmbeddedError
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import service_of, upgrade
from animus_kit.db.provision import provision

SERVICES = ("catalog", "orchestrator", "policy", "lineage", "audit")
PASSWORD = "test-only"
_OPTIONS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "shared_buffers": "64MB"}


class Database:
    """One database, with the schemas of `packages` migrated."""

    def __init__(self, server: Embedded, name: str):
        self._server = server
        self.name = name
        self._engines: list[sa.Engine] = []

    @property
    def admin_dsn(self) -> str:
        return self._server.dsn(self.name)

    def dsn(self, service: str) -> str:
        """Of the service's runtime role."""
        return self._server.dsn(self.name, service, PASSWORD)

    def engine(self, service: str, pool: int = 8) -> sa.Engine:
        """As the runtime role. Closed with the database."""
        engine = create_engine(self.dsn(service), pool)
        self._engines.append(engine)
        return engine

    def drop(self) -> None:
        for engine in self._engines:
            engine.dispose()
        self._server.drop_database(self.name)


class Postgres:
    """The server of this test run."""

    def __init__(self, server: Embedded):
        self.server = server

    def database(self, packages: Sequence[str] = (), services: Sequence[str] = SERVICES) -> Database:
        """A new database: roles and schemas of `services`, migrations of `packages` applied."""
        template = self._template(tuple(packages), tuple(services))
        name = f"t_{uuid.uuid4().hex[:16]}"
        with self._lock():  # a template can be copied by one session at a time
            self.server.create_database(name, template)
        made = Database(self.server, name)
        if set(services) - set(SERVICES):
            provision(made.admin_dsn, dict.fromkeys(services, PASSWORD))
        else:
            self._connect_rights(made, services)
        return made

    def _connect_rights(self, made: Database, services: Sequence[str]) -> None:
        """Rights on the database itself are not copied from a template."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(made.admin_dsn) as conn:
            for service in services:
                conn.execute(
                    sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                        sql.Identifier(made.name), sql.Identifier(service)
                    )
                )

    def _template(self, packages: tuple[str, ...], services: tuple[str, ...]) -> str:
        name = "template_" + hashlib.sha256(repr((packages, services)).encode()).hexdigest()[:16]
        done = self.server.folder / name
        with self._lock():
            if done.exists():
                return name
            self.server.drop_database(name)
            self.server.create_database(name)
            dsn = self.server.dsn(name)
            provision(dsn, dict.fromkeys(services, PASSWORD))
            for package in packages:
                upgrade(dsn, package)
            done.touch()
        return name

    def _lock(self) -> _FileLock:
        return _FileLock(self.server.folder / "templates.lock")


class _FileLock:
    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _folder() -> Path:
    """Shared by the workers of one run (pytest-xdist), and by nobody else."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}"
    return Path(tempfile.gettempdir()) / f"animus-test-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server. Skips where the embedded PostgreSQL cannot run."""
    folder = _folder()
    folder.mkdir(mode=0o711, exist_ok=True)
    users = folder / "users"
    with users.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with _FileLock(folder / "guard.lock"):
            if not (folder / "ready").exists():
                _start_guard(folder)
        yield Postgres(Embedded(folder, _OPTIONS))


def _start_guard(folder: Path) -> None:
    log = folder / "guard.log"
    with log.open("w") as out:
        guard = subprocess.Popen(
            [sys.executable, "-m", "animus_kit.db.embedded", folder, *(f"{k}={v}" for k, v in _OPTIONS.items())],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    # Whoever waits for it keeps it from being a zombie; the run does not depend on it.
    threading.Thread(target=guard.wait, daemon=True).start()
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        if guard.poll() is not None or time.monotonic() > deadline:
            raise EmbeddedError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def packages_of(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Whose migrations a test module needs: its `PACKAGES`, or the package that its folder below tests/ mirrors."""
    declared = getattr(request.module, "PACKAGES", None)
    if declared is not None:
        return tuple(declared)
    parts = request.path.parts
    folder = parts[len(parts) - 1 - parts[::-1].index("tests") + 1] if "tests" in parts else ""
    return (f"animus_{folder}",) if folder in SERVICES else ()


@pytest.fixture(scope="module")
def database(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database for the module. Tests in it share rows: give each a project of its own."""
    made = postgres.database(packages_of(request))
    yield made
    made.drop()


@pytest.fixture
def fresh_database(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database for one test."""
    made = postgres.database(packages_of(request))
    yield made
    made.drop()


__all__ = ["Database", "Postgres", "database", "fresh_database", "packages_of", "postgres", "service_of"]
