"""Where everything of a stack lies, and what is remembered of it between starts."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from animus_cli.stack import options
from animus_cli.stack.options import Options

PORTS = (
    "gateway",
    "catalog",
    "catalog-stream",
    "catalog-agent",
    "orchestrator",
    "orchestrator-stream",
    "dispatch",
    "enrollment",
    "policy",
    "lineage",
    "audit",
    "audit-stream",
    "catalog-metrics",
    "orchestrator-metrics",
    "dispatch-metrics",
    "policy-metrics",
    "lineage-metrics",
    "audit-metrics",
)
# Where agents connect: these listen where nodes other than this machine can reach them, if the stack has such.
FOR_NODES = ("dispatch", "enrollment", "catalog-agent")
GATEWAY_PORT = 8443
FIRST_PORT = 20000
TRUST_DOMAIN = "animus.local"
AGENT = "local"


def default_folder() -> Path:
    """$ANIMUS_DIR, or a folder of the user's (XDG base directories); for root one that services may pass through."""
    given = os.environ.get("ANIMUS_DIR")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/animus")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "animus"


@dataclass(frozen=True)
class Layout:
    """The folder of one stack."""

    root: Path

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def trust_bundle(self) -> Path:
        return self.pki / "trust-bundle.json"

    @property
    def jwks(self) -> Path:
        return self.pki / "jwks.json"

    @property
    def issuer_key(self) -> Path:
        return self.pki / "issuer.key"

    @property
    def actor_key(self) -> Path:
        return self.pki / "actor.key"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def agent(self) -> Path:
        return self.root / "agent"

    @property
    def agent_run(self) -> Path:
        """What must not outlive a reboot: short, and on a memory file system where there is one."""
        name = "animus-agent-" + hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]
        return Path("/run") / name if os.geteuid() == 0 else self.root / "agent-run"

    @property
    def client(self) -> Path:
        """What a client needs to know: endpoint, CA, where tokens come from."""
        return self.root / "client.json"

    def folder(self, name: str) -> Path:
        """A process's own folder."""
        return self.root / name

    def tls(self, name: str) -> tuple[Path, Path]:
        """Certificate chain and key of a process."""
        return self.pki / name / "tls.crt", self.pki / name / "tls.key"

    @property
    def services_ca(self) -> Path:
        return self.pki / "services-ca.crt"

    @property
    def agents_ca(self) -> Path:
        return self.pki / "agents-ca.crt"

    @cached_property
    def ports(self) -> dict[str, int]:
        """Chosen once, so that a process that comes back is where the others look for it."""
        path = self.root / "ports.json"
        if path.exists():
            ports = json.loads(path.read_text())
            if set(ports) == set(PORTS):
                return ports
        ports = _free_ports()
        self.root.mkdir(parents=True, exist_ok=True)
        options.write_whole(path, json.dumps(ports, indent=2) + "\n")
        return ports

    @property
    def options_file(self) -> Path:
        return self.root / "options.json"

    @property
    def options(self) -> Options:
        """Read anew each time: `up` may change them."""
        return options.load(self.options_file)

    def address(self, name: str) -> str:
        host = self.options.node_address if name in FOR_NODES else options.LOOPBACK
        return f"{host}:{self.ports[name]}"

    @property
    def endpoint(self) -> str:
        return f"https://{self.address('gateway')}"


def _free_ports() -> dict[str, int]:
    """Ports that are free now, all of them held at once so that none comes twice.

    Below the range from which the kernel takes ports for outgoing connections: one that it gave away while the stack was
    down could not be listened on when it comes back.
    """
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    choices = random.sample(range(min(FIRST_PORT, below - 1000), below), 1000)
    held: dict[str, socket.socket] = {}
    try:
        for name in PORTS:
            wanted = [GATEWAY_PORT] if name == "gateway" else []
            held[name] = _bind([*wanted, *choices])
        return {name: sock.getsockname()[1] for name, sock in held.items()}
    finally:
        for sock in held.values():
            sock.close()


def _bind(candidates: list[int]) -> socket.socket:
    for port in candidates:
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", port))
            return sock
        except OSError:
            sock.close()
    raise OSError("no free port was found")
