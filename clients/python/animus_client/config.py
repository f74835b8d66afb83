"""Which gateway to talk to, and with whose token.

In this order: ANIMUS_ENDPOINT with ANIMUS_CA and ANIMUS_TOKEN or ANIMUS_TOKEN_FILE; what `animus login` wrote
($XDG_CONFIG_HOME/animus/config.json); the local stack of $ANIMUS_DIR or of the default folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from animus_client.auth import FileToken, StackToken, StaticToken, TokenSource
from animus_client.errors import ClientError


class NotConfigured(ClientError):
    """Nothing says where the gateway is."""

    def __init__(self) -> None:
        super().__init__(
            "NOT_CONFIGURED",
            "no gateway is known: start a local stack (animus up), or name one (animus login, or ANIMUS_ENDPOINT)",
        )


@dataclass(frozen=True)
class Config:
    """endpoint: https://host:port. ca: PEM of the CA of the gateway's certificate; None for the system's."""

    endpoint: str
    tokens: TokenSource
    ca: Path | None = None

    @property
    def target(self) -> str:
        """host:port. Raises ClientError for anything but https: tokens do not travel in the clear."""
        parts = urlsplit(self.endpoint)
        if parts.scheme != "https" or not parts.hostname:
            raise ClientError("ENDPOINT_INVALID", f"the endpoint must be https://host:port, is {self.endpoint!r}")
        return f"{parts.hostname}:{parts.port or 443}"

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None, subject: str | None = None) -> Config:
        """subject: another subject of a local stack's issuer than its operator. Raises NotConfigured."""
        environ = os.environ if environ is None else environ
        if endpoint := environ.get("ANIMUS_ENDPOINT"):
            return cls(endpoint, _tokens(environ.get("ANIMUS_TOKEN"), environ.get("ANIMUS_TOKEN_FILE")), _ca(environ))
        path = user_file(environ)
        stack = stack_folder(environ) / "client.json"
        if path.exists() and "ANIMUS_DIR" not in environ:
            found = json.loads(path.read_text())
            ca = Path(found["ca"]) if found.get("ca") else None
            return cls(found["endpoint"], FileToken(Path(found["token_file"])), ca)
        try:
            found = json.loads(stack.read_text())
        except FileNotFoundError:
            raise NotConfigured from None
        groups = found["groups"] if subject is None else []
        tokens = StackToken(Path(found["stack"]) / "pki" / "issuer.key", subject or found["subject"], groups)
        return cls(found["endpoint"], tokens, Path(found["ca"]))


def user_file(environ: Mapping[str, str]) -> Path:
    """What `animus login` writes."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/")) / ".config")
    return Path(base) / "animus" / "config.json"


def stack_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the local stack: $ANIMUS_DIR, or the default one of this user."""
    if given := environ.get("ANIMUS_DIR"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/animus")
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "/")) / ".local" / "share")
    return Path(base) / "animus"


def _tokens(value: str | None, path: str | None) -> TokenSource:
    if value:
        return StaticToken(value)
    if path:
        return FileToken(Path(path))
    raise ClientError("NOT_CONFIGURED", "ANIMUS_ENDPOINT is set, but neither ANIMUS_TOKEN nor ANIMUS_TOKEN_FILE")


def _ca(environ: Mapping[str, str]) -> Path | None:
    return Path(environ["ANIMUS_CA"]) if environ.get("ANIMUS_CA") else None
