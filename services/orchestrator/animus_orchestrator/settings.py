"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animus_kit.settings import Duration
from animus_kit.tls import TlsFiles


@dataclass(frozen=True)
class Common:
    """What both programs need. `audit_target` empty: events stay in the outbox."""

    trust_domain: str
    database_dsn: str
    tls_cert: Path
    tls_key: Path
    services_ca: Path
    audit_target: str = ""
    database_pool: int = 8
    metrics_listen: str = ""
    reflection: bool = False
    log_level: str = "INFO"

    @property
    def tls(self) -> TlsFiles:
        """Our certificate, and the services' CA, which every peer but agents must come from."""
        return TlsFiles(self.tls_cert, self.tls_key, self.services_ca)


@dataclass(frozen=True)
class ServeSettings(Common):
    """`python -m animus_orchestrator serve`."""

    listen: str = "127.0.0.1:0"
    stream_listen: str = "127.0.0.1:0"
    catalog_target: str = ""
    policy_target: str = ""
    token_issuer: str = ""
    token_audience: str = "animus"
    token_jwks: str = ""
    token_groups_claim: str = "groups"
    actor_key: Path | None = None
    workers: int = 16

    def __post_init__(self) -> None:
        for name in ("catalog_target", "policy_target", "token_issuer", "token_jwks", "actor_key"):
            if not getattr(self, name):
                raise ValueError(f"ANIMUS_{name.upper()}: must be set")


@dataclass(frozen=True)
class DispatchSettings(Common):
    """`python -m animus_orchestrator dispatch`. The endpoints are what agents are told to dial."""

    listen: str = "127.0.0.1:0"
    enrollment_listen: str = "127.0.0.1:0"
    agents_ca: Path = Path()
    agents_ca_key: Path = Path()
    contract_key: Path = Path()
    attestation_key: Path = Path()
    trust_bundle: Path = Path()
    dispatch_endpoint: str = ""
    blob_endpoint: str = ""
    lease_duration: Duration = Duration(60)
    lease_margin: Duration = Duration(15)
    status_interval: Duration = Duration(10)
    log_limit_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("agents_ca", "agents_ca_key", "contract_key", "attestation_key", "trust_bundle"):
            if getattr(self, name) == Path():
                raise ValueError(f"ANIMUS_{name.upper()}: must be set")
        if not 0 < self.lease_margin < self.lease_duration:
            raise ValueError("ANIMUS_LEASE_MARGIN: must be shorter than ANIMUS_LEASE_DURATION")
        if self.status_interval * 2 > self.lease_duration - self.lease_margin:
            raise ValueError("ANIMUS_STATUS_INTERVAL: an agent must be able to miss one renewal")

    @property
    def agents_tls(self) -> TlsFiles:
        """Our certificate, and the agents' CA: dispatch accepts agents and nobody else."""
        return TlsFiles(self.tls_cert, self.tls_key, self.agents_ca)


@dataclass(frozen=True)
class MigrateSettings:
    """`python -m animus_orchestrator migrate`: a role that may SET ROLE orchestrator_owner."""

    admin_dsn: str
