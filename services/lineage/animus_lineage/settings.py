"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from dataclasses import dataclass
from pathlib import Path

from animus_kit.server.common import AskingSettings
from animus_kit.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class Settings(AskingSettings):
    """audit_target: host:port of audit, where the relay of the outbox delivers. audit_stream_target: of its streams,
    where the log is read."""

    audit_target: str
    audit_stream_target: str


@dataclass(frozen=True, kw_only=True)
class RebuildSettings:
    """migrate_dsn: of a role that may SET ROLE lineage_owner. The rest as for serve."""

    migrate_dsn: str
    dsn: str
    tls_cert: Path
    tls_key: Path
    tls_ca: Path
    audit_stream_target: str
    trust_domain: str = "animus.local"
    log_level: str = "INFO"

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)
