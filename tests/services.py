"""What the tests of several services need to start the real process: settings, people with tokens, errors taken apart."""

import json
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt

from animus_kit.status import RemoteError, from_rpc_error
from animus_kit.testing.pki import TRUST_DOMAIN, TestPki
from animus_kit.testing.postgres import Database

ISSUER = "https://issuer.test"
ADMINS = "platform-admins"


class People:
    """An issuer of tokens and its keys as a file."""

    def __init__(self, folder: Path):
        key = ec.generate_private_key(ec.SECP256R1())
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = {k: _text(v) for k, v in jwk.construct(key.public_key(), "ES256").to_dict().items()}
        self.keys = folder / "jwks.json"
        self.keys.write_text(json.dumps({"keys": [{**public, "kid": "k1", "use": "sig", "alg": "ES256"}]}))
        self.actor_key = folder / "actor.key"
        self.actor_key.write_bytes(bytes(range(32)))

    def token(self, subject: str, *groups: str) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": "animus", "sub": subject, "groups": groups, "iat": now, "exp": now + 600}
        return jwt.encode(claims, self._key, "ES256", headers={"typ": "at+jwt", "kid": "k1"})

    def as_(self, subject: str, *groups: str) -> list[tuple[str, str]]:
        """Metadata of a call by a person, as the gateway passes it on."""
        return [("authorization", f"Bearer {self.token(subject, *groups)}")]

    @property
    def root(self) -> list[tuple[str, str]]:
        """A platform administrator."""
        return self.as_("root", ADMINS)


def common(service: str, database: Database, pki: TestPki, people: People) -> dict[str, Any]:
    """The fields of animus_kit.server.common.ServiceSettings."""
    files = pki.files(f"service/{service}")
    return {
        "dsn": database.dsn(service),
        "tls_cert": files.cert,
        "tls_key": files.key,
        "tls_ca": files.ca,
        "actor_key": people.actor_key,
        "oidc_issuer": ISSUER,
        "oidc_keys": str(people.keys),
        "trust_domain": TRUST_DOMAIN,
        "listen": "127.0.0.1:0",
    }


@dataclass
class Refusal:
    error: RemoteError | None = None

    @property
    def reason(self) -> str:
        return self.error.reason

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.error.metadata

    @property
    def fields(self) -> set[str]:
        return {violation.field for violation in self.error.violations}


@contextmanager
def refused(code: str, reason: str):
    """The block must end in this error."""
    refusal = Refusal()
    with pytest.raises(grpc.RpcError) as raised:
        yield refusal
    refusal.error = from_rpc_error(raised.value)
    assert (refusal.error.code, refusal.error.reason) == (code, reason), refusal.error


def eventually(condition, seconds: float = 10.0):
    """The condition's first true value; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.01)
    return value


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
