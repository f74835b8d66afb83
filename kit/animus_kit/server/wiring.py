"""What the `__main__` of every service puts together in the same way: settings, engine, identities, door, sequencer.

A service subclasses ServerSettings with what it alone needs; each field is read from ANIMUS_<FIELD>.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from animus.audit.v1 import ingest_pb2_grpc
from animus.policy.v1 import access_pb2_grpc
from animus_kit.channel import dial
from animus_kit.clock import Clock, SystemClock
from animus_kit.db import migrate
from animus_kit.db.denials import Denials
from animus_kit.db.engine import create_engine
from animus_kit.db.sequencer import Sequencer
from animus_kit.ids import Ids, RandomIds
from animus_kit.server.authz import Access, PolicyAccess, Rows
from animus_kit.server.door import Door
from animus_kit.server.serve import WORKERS, Process
from animus_kit.server.token import FileKeys, KeySource, TokenVerifier, UrlKeys
from animus_kit.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What every service needs. Secrets are paths of files.

    listen, stream_listen: host:port of the sync and the aio listener. tls_cert, tls_key: this process's identity.
    services_ca: whose peers it accepts and dials. dsn_file: holds the libpq connection string of the runtime role.
    actor_key_file: secret from which people's opaque ids in the log are made; the same in every service.
    policy_target, audit_target: host:port of those services. token_jwks: path, or https URL, of the issuer's keys.
    metrics_listen: loopback host:port, or empty for none.
    """

    listen: str
    tls_cert: Path
    tls_key: Path
    services_ca: Path
    dsn_file: Path
    actor_key_file: Path
    token_issuer: str
    token_jwks: str
    trust_domain: str = "animus.local"
    token_audience: str = "animus"
    token_groups_claim: str = "groups"
    stream_listen: str = ""
    policy_target: str = ""
    audit_target: str = ""
    metrics_listen: str = ""
    log_level: str = "INFO"
    reflection: bool = False
    workers: int = WORKERS
    db_pool: int = 8

    @property
    def dsn(self) -> str:
        return self.dsn_file.read_text().strip()


@dataclass
class Wiring:
    """The shared parts of one process, made when first asked for."""

    service: str
    settings: ServerSettings
    rows: Rows
    access: Access | None = None
    clock: Clock = SystemClock()
    ids: Ids = RandomIds()

    @cached_property
    def engine(self) -> sa.Engine:
        """Refuses a database that was not migrated to this build's revision (RevisionMismatch)."""
        engine = create_engine(self.settings.dsn, self.settings.db_pool, application_name=self.service)
        migrate.check_revision(engine, f"animus_{self.service}")
        return engine

    @cached_property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.settings.tls_cert, self.settings.tls_key, self.settings.services_ca)

    @cached_property
    def door(self) -> Door:
        settings = self.settings
        return Door(
            self.service,
            settings.trust_domain,
            self.rows,
            TokenVerifier(
                settings.token_issuer,
                settings.token_audience,
                key_source(settings.token_jwks),
                self.clock,
                settings.token_groups_claim,
            ),
            self.access or self.policy_access,
            Denials(self.engine, self.service, self.clock),
            settings.actor_key_file.read_bytes(),
        )

    @cached_property
    def policy_access(self) -> PolicyAccess:
        stub = access_pb2_grpc.AccessServiceStub(self.dial("policy", self.settings.policy_target))
        return PolicyAccess(stub, self.clock)

    def dial(self, service: str, target: str, *, aio: bool = False) -> Any:
        """A channel to another service under this process's identity. Raises ValueError when target is not set."""
        if not target:
            raise ValueError(f"where {service} listens is not set")
        return dial(target, service, self.tls, self.settings.trust_domain, aio=aio)

    def sequencer(self) -> Sequencer:
        """Numbers this source's events and delivers them to audit."""
        channel = self.dial("audit", self.settings.audit_target)
        return Sequencer(self.settings.dsn, self.service, ingest_pb2_grpc.EventIngestServiceStub(channel))

    def process(self, **options: Any) -> Process:
        """An empty process with this service's name, metrics and reflection. options: further fields of Process."""
        settings = self.settings
        return Process(self.service, settings.metrics_listen, settings.reflection, **options)


def key_source(jwks: str) -> KeySource:
    """A URL, or the path of a file."""
    return UrlKeys(jwks) if "://" in jwks else FileKeys(Path(jwks))


def main(service: str, serve: Callable[[], None], **commands: Callable[[], None]) -> None:
    """The command line of a service: `serve`, `migrate` (with ANIMUS_MIGRATE_DSN_FILE) and what else it has."""
    import os
    import sys

    from animus_kit.log import configure
    from animus_kit.settings import SettingsError

    def upgrade() -> None:
        dsn_file = os.environ.get("ANIMUS_MIGRATE_DSN_FILE", "")
        if not dsn_file:
            raise SettingsError(["ANIMUS_MIGRATE_DSN_FILE: required: path of a file with the administrator's DSN"])
        migrate.upgrade(Path(dsn_file).read_text().strip(), f"animus_{service}")

    known = {"serve": serve, "migrate": upgrade, **commands}
    if len(sys.argv) != 2 or sys.argv[1] not in known:
        sys.exit(f"usage: python -m animus_{service} {{{','.join(known)}}}")
    configure(service, os.environ.get("ANIMUS_LOG_LEVEL", "INFO"))
    try:
        known[sys.argv[1]]()
    except (SettingsError, migrate.RevisionMismatch) as error:
        sys.exit(str(error))
