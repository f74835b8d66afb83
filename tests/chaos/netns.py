"""Three nodes, each in a network namespace of its own, joined to the services by one link that can be cut.

    services (the run's namespace) ── bridge 10.77.0.1 ── veth ── node namespace 10.77.0.1x

Nothing else leads anywhere: a node reaches the listeners for nodes, and not the internet, the gateway or another node's
services.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

BRIDGE = "chaos"
SERVICES = "10.77.0.1"


def refused() -> str:
    """Why links cannot be made here, tried in a namespace that ends with the trial."""
    trial = "ip link add name trial type bridge && ip link add t0 type veth peer name t1 && nft add table inet trial"
    done = subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"bridges, veth pairs or nft ({done.stderr.strip()})"


def prepare() -> None:
    """The services' side, in the namespace of the run."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "name", BRIDGE, "type", "bridge", "forward_delay", "0")
    _ip("addr", "add", f"{SERVICES}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


@dataclass(frozen=True)
class Link:
    """One node's namespace and its link. `number` from 1."""

    number: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def device(self) -> str:
        """The services' end."""
        return f"link-{self.number}"

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self.device, "master", BRIDGE, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "addr", "add", f"10.77.0.{10 + self.number}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")

    def inside(self, *command: str) -> list[str]:
        """The command as run on the node. Not `ip netns exec`, which would give it mounts of its own as well."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def cut(self) -> None:
        """Pulls the plug: both sides see the link go."""
        _ip("link", "set", self.device, "down")

    def plug(self) -> None:
        _ip("link", "set", self.device, "up")

    def swallow(self, share: float = 1.0) -> None:
        """Drops this share of the packets in both directions; neither side sees anything."""
        which = "" if share >= 1 else f"numgen random mod 1000 < {int(share * 1000)}"
        rules = f"""
            table inet chaos {{
                chain input {{ type filter hook input priority 0; {which} drop; }}
                chain output {{ type filter hook output priority 0; {which} drop; }}
            }}"""
        _run(self.inside("nft", "-f", "-"), rules)

    def swallow_no_more(self) -> None:
        _run(self.inside("nft", "delete", "table", "inet", "chaos"))

    def devices(self) -> list[str]:
        """Names of the node's interfaces."""
        lines = _run(["ip", "-n", self.name, "-o", "link"]).splitlines()
        return sorted(line.split(": ")[1].partition("@")[0] for line in lines)


def devices() -> list[str]:
    """Names of the interfaces on the services' side."""
    return sorted(line.split(": ")[1].partition("@")[0] for line in _run(["ip", "-o", "link"]).splitlines())


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
