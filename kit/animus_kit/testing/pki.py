"""Certificates for tests: two CAs that live as long as the test run, and leaves for whoever needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from animus_kit import pki
from animus_kit.channel import dial
from animus_kit.server.serve import Process
from animus_kit.tls import TlsFiles

TRUST_DOMAIN = "animus.local"


class TestPki:
    """Makes files below one folder. What it made once it gives again."""

    __test__ = False

    def __init__(self, folder: Path, trust_domain: str = TRUST_DOMAIN):
        self.folder = folder
        self.trust_domain = trust_domain
        now = datetime.now(UTC)
        self.services = pki.new_ca("test services", now)
        self.agents = pki.new_ca("test agents", now)

    def files(self, path: str, *, accept: str = "services") -> TlsFiles:
        """Of a service or the gateway: path is `service/<name>` or `gateway`. accept: whose certificates it takes from
        the other side, `services` or `agents`."""
        name = path.rpartition("/")[2]
        folder = self.folder / f"{path.replace('/', '-')}-{accept}"
        made = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        if not made.cert.exists():
            names = (f"{name}.{self.trust_domain}",)
            leaf = pki.issue_service(self.services, path, names, self.trust_domain, datetime.now(UTC))
            pki.write_private(made.key, leaf.key_pem)
            pki.write_public(made.ca, getattr(self, accept).certificate_pem)
            pki.write_public(made.cert, leaf.certificate_pem)
        return made

    def agent(self, agent_id: str) -> TlsFiles:
        """Of an agent: a client certificate from the agents' CA. It accepts services."""
        folder = self.folder / f"agent-{agent_id}"
        made = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        if not made.cert.exists():
            key, csr = pki.new_csr()
            leaf = pki.sign_agent(self.agents, pki.csr_public_key(csr), agent_id, self.trust_domain, datetime.now(UTC))
            pki.write_private(made.key, key)
            pki.write_public(made.ca, self.services.certificate_pem)
            pki.write_public(made.cert, leaf)
        return made

    def dial(self, process: Process, listener: str = "sync", as_: str = "gateway", *, aio: bool = False) -> Any:
        """A channel to a running process. as_: `gateway`, `service/<name>` or `agent/<id>`."""
        files = self.agent(as_.removeprefix("agent/")) if as_.startswith("agent/") else self.files(as_)
        # Channels of one process would share a connection, and with it whoever connected first.
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = f"127.0.0.1:{process.port(listener)}"
        return dial(target, process.service, files, self.trust_domain, aio=aio, options=options)


@pytest.fixture(scope="session", name="pki")
def pki_fixture(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return TestPki(tmp_path_factory.mktemp("pki"))


@contextmanager
def started(process: Process) -> Iterator[Process]:
    """Starts a process inside this one, and stops it."""
    process.start()
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def running() -> Iterator[Any]:
    """`running(process)` starts it and returns it; it is stopped at the end of the test."""
    processes: list[Process] = []

    def run(process: Process) -> Process:
        process.start()
        processes.append(process)
        return process

    yield run
    for process in reversed(processes):
        process.stop()


__all__ = ["TestPki", "pki_fixture", "running", "started"]
