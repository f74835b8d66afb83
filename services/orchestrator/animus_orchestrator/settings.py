"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animus_kit.server.common import AskingSettings
from animus_kit.settings import Duration
from animus_kit.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class ServeSettings(AskingSettings):
    """`python -m animus_orchestrator serve`. stream_listen: where runs and logs are followed."""

    stream_listen: str
    catalog_target: str
    audit_target: str


@dataclass(frozen=True, kw_only=True)
class DispatchSettings:
    """`python -m animus_orchestrator dispatch`: no people come here, so that it knows neither tokens nor policy.

    agents_ca, agents_ca_key: signs agents' certificates; what dispatch accepts. contract_key, attestation_key: Ed25519,
    of these purposes in the trust bundle. The endpoints are what agents are told to dial.
    """

    dsn: str
    tls_cert: Path
    tls_key: Path
    tls_ca: Path
    agents_ca: Path
    agents_ca_key: Path
    contract_key: Path
    attestation_key: Path
    trust_bundle: Path
    listen: str
    enrollment_listen: str
    dispatch_endpoint: str
    blob_endpoint: str
    audit_target: str
    trust_domain: str = "animus.local"
    lease_duration: Duration = Duration(60)
    lease_margin: Duration = Duration(15)
    status_interval: Duration = Duration(10)
    log_limit_bytes: int = 64 << 20
    reserve_after: Duration = Duration(60)
    metrics_listen: str = ""
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        if not 0 < self.lease_margin < self.lease_duration:
            raise ValueError("ANIMUS_LEASE_MARGIN: must be shorter than ANIMUS_LEASE_DURATION")
        if self.status_interval * 2 > self.lease_duration - self.lease_margin:
            raise ValueError("ANIMUS_STATUS_INTERVAL: an agent must be able to miss one renewal")

    @property
    def tls(self) -> TlsFiles:
        """Our certificate and the services' CA."""
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def agents_tls(self) -> TlsFiles:
        """Our certificate and the agents' CA: dispatch accepts agents and nobody else."""
        return TlsFiles(self.tls_cert, self.tls_key, self.agents_ca)
