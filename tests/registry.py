"""Debian's docker-registry on loopback, with TLS and a password, for tests that pull."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from animus_kit import pki
from animus_kit.digest import sha256
from animus_kit.registry.settings import Endpoint

USER, PASSWORD = "animus", "s3cret"
# bcrypt of the password above, at its lowest cost.
_HTPASSWD = f"{USER}:$2b$04$bTwbLrGY2JIyFPURqqUcGeuLKCXa9iZbcWrazFnpvk7cPU3XrrYGu\n"

requires_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="needs docker-registry (Debian's package of that name)"
)


class DockerRegistry:
    """One process that keeps its blobs as files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file, self.password_file = folder / "ca.crt", folder / "password"
        ca = pki.new_ca("registry", datetime.now(UTC))
        leaf = pki.issue_service(ca, "r", ("localhost",), "test", datetime.now(UTC), addresses=("127.0.0.1",))
        pki.write_public(self.ca_file, ca.certificate_pem)
        pki.write_private(folder / "tls.key", leaf.key_pem)
        pki.write_public(folder / "tls.crt", leaf.certificate_pem)
        pki.write_private(self.password_file, PASSWORD.encode())
        (folder / "htpasswd").write_text(_HTPASSWD)
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
            f'http: {{addr: "127.0.0.1:0", secret: test, tls: {{certificate: {folder / "tls.crt"}, key: {folder / "tls.key"}}}}}\n'
            f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        self.port = self._wait_for_port()
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def endpoint(self, *repositories: str) -> Endpoint:
        return Endpoint(
            origin=("127.0.0.1", self.port),
            repositories=repositories,
            ca=self.ca_file,
            username=USER,
            password_file=self.password_file,
        )

    def settings_file(self, *repositories: str) -> Path:
        path = self.folder / "registries.toml"
        names = ", ".join(f'"{name}"' for name in repositories)
        path.write_text(
            f'[[registry]]\nurl = "https://{self.host}"\nrepositories = [{names}]\nca = "{self.ca_file}"\n'
            f'username = "{USER}"\npassword_file = "{self.password_file}"\n'
        )
        return path

    def push_blob(self, repository: str, data: bytes) -> str:
        """distribution-spec 1.1, "Pushing a blob monolithically"."""
        started = self._call("POST", f"/v2/{repository}/blobs/uploads/", b"")
        location = started.headers["Location"]
        mark = "&" if "?" in location else "?"
        self._call("PUT", f"{location}{mark}digest={sha256(data)}", data, "application/octet-stream")
        return sha256(data)

    def push_manifest(self, repository: str, data: bytes, media_type: str = "") -> str:
        kind = media_type or "application/vnd.oci.image.manifest.v1+json"
        self._call("PUT", f"/v2/{repository}/manifests/{sha256(data)}", data, kind)
        return sha256(data)

    def path_of(self, digest: str) -> Path:
        """Where the bytes lie, for a test that damages them."""
        name = digest.removeprefix("sha256:")
        return self.folder / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def requests(self, method: str = "GET") -> list[str]:
        """Paths of answered requests, by the registry's own log."""
        return re.findall(rf'"{method} (/v2/[^ ]+) HTTP', self._log.read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _call(self, method: str, url: str, data: bytes, kind: str = "") -> object:
        whole = url if url.startswith("https:") else f"https://{self.host}{url}"
        request = urllib.request.Request(whole, data=data, method=method)
        request.add_header("Authorization", "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        if kind:
            request.add_header("Content-Type", kind)
        return urllib.request.urlopen(request, context=self._tls, timeout=30)

    def _wait_for_port(self) -> int:
        from tests.agent.control import until

        def listening() -> re.Match[str] | None:
            assert self._process.poll() is None, self._log.read_text()
            return re.search(r"listening on 127\.0\.0\.1:(\d+), tls", self._log.read_text())

        until(listening, "docker-registry to listen")
        found = listening()
        assert found
        return int(found[1])


@contextmanager
def docker_registry(folder: Path) -> Iterator[DockerRegistry]:
    registry = DockerRegistry(folder)
    try:
        yield registry
    finally:
        registry.close()
