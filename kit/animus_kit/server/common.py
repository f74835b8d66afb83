"""The settings that every service has, and the parts that are made of them alone.

    @dataclass(frozen=True, kw_only=True)
    class Settings(AskingSettings):
        dispatch_listen: str

Same names in every process, so that one who knows the environment of one service knows that of all.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from animus.policy.v1 import access_pb2_grpc
from animus_kit.channel import dial
from animus_kit.clock import Clock
from animus_kit.server.authz import PolicyAccess
from animus_kit.server.token import FileKeys, TokenVerifier, UrlKeys
from animus_kit.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """dsn: of the runtime role. listen: host:port. tls_ca: the services' CA. metrics_listen: loopback, empty for none.

    actor_key: file with the secret from which people's opaque ids in the log are made; the same for every service.
    oidc_keys: a JWKS, as a file or an https URL.
    """

    dsn: str
    tls_cert: Path
    tls_key: Path
    tls_ca: Path
    actor_key: Path
    oidc_issuer: str
    oidc_keys: str
    oidc_audience: str = "animus"
    oidc_groups_claim: str = "groups"
    trust_domain: str = "animus.local"
    listen: str
    metrics_listen: str = ""
    reflection: bool = False
    log_level: str = "INFO"

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    def read_actor_key(self) -> bytes:
        """Raises ValueError for a key that could be guessed."""
        key = self.actor_key.read_bytes()
        if len(key) < 32:
            raise ValueError(f"{self.actor_key}: an actor key has 32 bytes or more")
        return key

    def verifier(self, clock: Clock) -> TokenVerifier:
        keys = UrlKeys(self.oidc_keys) if self.oidc_keys.startswith("https://") else FileKeys(Path(self.oidc_keys))
        return TokenVerifier(self.oidc_issuer, self.oidc_audience, keys, clock, self.oidc_groups_claim)


@dataclass(frozen=True, kw_only=True)
class AskingSettings(ServiceSettings):
    """Of a service that asks policy. policy_target: host:port."""

    policy_target: str

    def policy_access(self, clock: Clock, workers: int) -> PolicyAccess:
        """At most half of the workers may wait for policy at once."""
        channel = dial(self.policy_target, "policy", self.tls, self.trust_domain)
        stub = access_pb2_grpc.AccessServiceStub(channel)
        return PolicyAccess(stub, clock, outgoing=threading.Semaphore(max(1, workers // 2)))


@dataclass(frozen=True, kw_only=True)
class MigrateSettings:
    """migrate_dsn: of a role that may SET ROLE to the schema's owner; never the runtime role."""

    migrate_dsn: str
    log_level: str = "INFO"
