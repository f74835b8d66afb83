"""The settings file, YAML. Everything else of Envoy's configuration follows from the protos.

listen: 127.0.0.1:8443
trust_domain: animus.local
upstreams:                       # one list of host:port per listener, see methods.Method.cluster
  catalog: [127.0.0.1:7101]
  catalog-stream: [127.0.0.1:7102]
tls:
  certificate: pki/gateway-public.crt     # what clients see
  key: pki/gateway-public.key
  client_certificate: pki/gateway.crt     # the identity /gateway, shown to services
  client_key: pki/gateway.key
  services_ca: pki/services-ca.crt
tokens: {issuer: https://login.example, audience: animus, jwks: jwks.json}
folder: run/gateway                       # written: envoy.yaml, secrets, admin socket
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


class SettingsError(Exception):
    """The settings file cannot be used. Names the field."""


@dataclass(frozen=True)
class Tls:
    """PEM files. They are watched, and replaced certificates are served without a restart."""

    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path
    services_ca: Path


@dataclass(frozen=True)
class Tokens:
    """The issuer of people's bearer tokens. jwks: its public keys, a file; watched."""

    issuer: str
    audience: str
    jwks: Path


@dataclass(frozen=True)
class Limits:
    """body_bytes bounds what a unary request carries. per_subject: requests a second for one subject, with a burst of twice that."""

    body_bytes: int = 1048576
    per_subject: int = 200
    connections: int = 10000
    unary_seconds: int = 30
    stream_idle_seconds: int = 300


@dataclass(frozen=True)
class Settings:
    listen: str
    trust_domain: str
    upstreams: Mapping[str, tuple[str, ...]]
    tls: Tls
    tokens: Tokens
    folder: Path
    limits: Limits = field(default_factory=Limits)
    # Origins whose pages may call with gRPC-Web or fetch; none unless named.
    cors_origins: tuple[str, ...] = ()
    concurrency: int = 1


def load(path: Path) -> Settings:
    """Reads a settings file; relative paths are relative to its folder. Raises SettingsError."""
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return _build(Settings, raw, "", path.resolve().parent)


def address(text: str, where: str = "listen") -> tuple[str, int]:
    """host:port, with an IPv6 host in brackets. Raises SettingsError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{where}: must be host:port, is {text!r}")
    return host.strip("[]"), int(port)


def _build(cls: Any, raw: Any, where: str, base: Path) -> Any:
    if not isinstance(raw, dict):
        raise SettingsError(f"{where or 'settings'}: must be a mapping")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in raw:
        if name not in known:
            raise SettingsError(f"{where}{name}: no such setting")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _read(hints[name], raw[name], f"{where}{name}", base)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}{name}: must be set")
    return cls(**values)


def _read(hint: Any, raw: Any, where: str, base: Path) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, raw, where + ".", base)
    if hint is Path and isinstance(raw, str):
        return base / raw
    if hint is str and isinstance(raw, str):
        return raw
    if hint is int and isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return raw
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return tuple(raw)
    if origin is not None and origin is not tuple and isinstance(raw, dict):
        return {str(key): _read(tuple[str, ...], value, f"{where}.{key}", base) for key, value in raw.items()}
    raise SettingsError(f"{where}: not usable: {raw!r}")
