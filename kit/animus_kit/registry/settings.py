"""Which registries may be read, and how: a TOML file that the machine's administrator writes.

    [[registry]]
    url = "https://registry.example:5000"
    repositories = ["ml/base", "ml/train"]       # where an agent looks; `image import` names its own
    ca = "/etc/animus/registry-ca.pem"           # the system's authorities if absent
    username = "animus"
    password_file = "/etc/animus/registry-password"
    token_file = "/etc/animus/registry-token"    # a bearer token, instead of user name and password
    token_url = "https://login.example/token"    # where else the registry may send us for a token
    redirects = ["https://storage.example"]      # where else it may send us for bytes; never with credentials

Secrets are files of their own, readable by nobody else. Everything else a registry says about where to go is refused: a
redirect or a token service of its choice would turn whoever pulls into its messenger inside the network.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from animus_kit.digest import PREFIXED_RE

# distribution-spec 1.1, "Pulling manifests".
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY_RE = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST_RE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_KEYS = {"url", "repositories", "ca", "username", "password_file", "token_file", "token_url", "redirects"}
MAX_SECRET_BYTES = 64 << 10

Origin = tuple[str, int]
"""Host in lower case and port; the scheme is always https."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One registry. `origin` is where credentials may go."""

    origin: Origin
    repositories: tuple[str, ...] = ()
    ca: Path | None = None
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    token_origins: frozenset[Origin] = field(default=frozenset())
    redirect_origins: frozenset[Origin] = field(default=frozenset())

    @property
    def name(self) -> str:
        host, port = self.origin
        return host if port == 443 else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry, by digest."""

    origin: Origin
    repository: str
    digest: str


def parse_reference(text: str) -> Reference:
    """`host[:port]/repository@sha256:…`. Raises ValueError: tags move, and what moved would not be told."""
    name, at, digest = text.partition("@")
    host, slash, repository = name.partition("/")
    if not at or PREFIXED_RE.fullmatch(digest) is None:
        raise ValueError(f"{text!r} names no digest: write host/repository@sha256:…")
    if not slash or not _HOST_RE.fullmatch(host) or not is_repository(repository):
        raise ValueError(f"{text!r} is no reference: write host/repository@sha256:…")
    return Reference(origin_of(f"https://{host}"), repository, digest)


def is_repository(name: str) -> bool:
    return len(name) <= 255 and REPOSITORY_RE.fullmatch(name) is not None


def origin_of(url: str) -> Origin:
    """Raises ValueError for anything but https with a host and without a user."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError(f"{url!r} must be https://host[:port]")
    return parts.hostname.lower(), parts.port or 443


def load(path: Path) -> tuple[Endpoint, ...]:
    """Reads the file. Raises ValueError with what is wrong."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    rows = document.get("registry")
    if set(document) != {"registry"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must hold [[registry]] tables and nothing else")
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_endpoint(row))
        except ValueError as error:
            raise ValueError(f"{path}: registry {number}: {error}") from error
    if len({one.origin for one in found}) != len(found):
        raise ValueError(f"{path}: a registry stands there twice")
    return tuple(found)


def _endpoint(row: dict[str, object]) -> Endpoint:
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise ValueError(f"no such key: {', '.join(unknown)}")
    url = _text(row, "url")
    if urlsplit(url).path not in ("", "/") or urlsplit(url).query:
        raise ValueError("url: must be https://host[:port] alone")
    repositories = _texts(row, "repositories")
    for name in repositories:
        if not is_repository(name):
            raise ValueError(f"repositories: {name!r} is no repository's name")
    username, password, token = _text(row, "username"), _path(row, "password_file"), _path(row, "token_file")
    if bool(username) != bool(password) or (token and username):
        raise ValueError("either username and password_file, or token_file, or none of them")
    for secret in filter(None, (password, token)):
        read_secret(secret)
    token_url = _text(row, "token_url")
    return Endpoint(
        origin=origin_of(url),
        repositories=repositories,
        ca=_path(row, "ca"),
        username=username,
        password_file=password,
        token_file=token,
        token_origins=frozenset({origin_of(token_url)} if token_url else ()),
        redirect_origins=frozenset(origin_of(one) for one in _texts(row, "redirects")),
    )


def read_secret(path: Path) -> str:
    """Raises ValueError when others may read it, or it is no single line."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ValueError(f"{path}: others may read it; it must be 0600")
            text = file.read(MAX_SECRET_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not text or not text.isprintable():
        raise ValueError(f"{path}: must hold one line of text")
    return text


def _text(row: dict[str, object], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: must be a text")
    return value


def _texts(row: dict[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key}: must be a list of texts")
    return tuple(value)


def _path(row: dict[str, object], key: str) -> Path | None:
    value = _text(row, key)
    return Path(value) if value else None
