"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from dataclasses import dataclass
from pathlib import Path

from animus_kit.server.wiring import ServerSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """audit_stream_target: host:port of audit's streams, where the log is read."""

    audit_stream_target: str


@dataclass(frozen=True, kw_only=True)
class RebuildSettings:
    """migrate_dsn_file: of a role that may SET ROLE lineage_owner. The rest as for serve."""

    migrate_dsn_file: Path
    dsn_file: Path
    tls_cert: Path
    tls_key: Path
    services_ca: Path
    audit_stream_target: str
    trust_domain: str = "animus.local"
