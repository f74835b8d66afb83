"""The agent's settings, from `ANIMUS_<NAME>`. See services/agent/README.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animus_agent.egress.rules import Ceiling
from animus_kit.settings import Duration

_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`agent_state_dir` survives a reboot, `agent_run_dir` must not (a tmpfs such as /run).

    `agent_cpu_millis`, `agent_memory_bytes`: what steps may use together; 0 means what the machine has, less a reserve.
    `agent_root_key`: raw or PEM Ed25519 public key of the offline root; without it the trust bundle is believed because
    it came through the pinned and then mutual TLS channel.
    `agent_registries`: a file that names registries to fetch images from (animus_kit/registry/settings.py); without it, and
    for what they do not have, the catalog is asked.
    `agent_egress_allow`: what steps with a network allow-list may reach at most (`host:port`, `*.suffix:port`,
    `*:port`); none, and no such step comes here. `agent_egress_networks`: inner networks that names may stand for.
    `agent_gpus`: `nvml`, `none`, or a file that lists devices (gpu/devices.py). `agent_gpu_uuids`: only these are offered.
    `agent_cdi_hooks`: programs that CDI specifications may have run as root, by absolute path.
    """

    agent_state_dir: Path = Path("/var/lib/animus-agent")
    agent_run_dir: Path = Path("/run/animus-agent")
    agent_driver: str = "runc"
    agent_root_key: Path | None = None
    agent_cgroup_parent: str = ""
    agent_max_attempts: int = 32
    agent_cpu_millis: int = 0
    agent_memory_bytes: int = 0
    agent_registries: Path | None = None
    agent_image_cache_bytes: int = 200 * _GIB
    agent_input_cache_bytes: int = 200 * _GIB
    agent_spool_log_bytes: int = _GIB
    agent_spare_volumes: int = 2
    agent_tmpfs_volumes: bool = False
    agent_drain_on_term: bool = False
    agent_egress_allow: tuple[str, ...] = ()
    agent_egress_networks: tuple[str, ...] = ()
    agent_gpus: str = "nvml"
    agent_gpu_uuids: tuple[str, ...] = ()
    agent_gpu_interval: Duration = Duration(30.0)
    agent_cdi_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    agent_cdi_hooks: tuple[str, ...] = ()
    agent_lease_margin: Duration = Duration(3.0)
    agent_fenced_limit: Duration = Duration(24 * 3600)
    dispatch_endpoint: str = ""
    blob_endpoint: str = ""
    test_clock_offset: Duration | None = None
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        if self.agent_driver not in ("runc", "fake"):
            raise ValueError("ANIMUS_AGENT_DRIVER: must be runc or fake")
        try:
            self.egress()
        except ValueError as error:
            raise ValueError(f"ANIMUS_AGENT_EGRESS_ALLOW, ANIMUS_AGENT_EGRESS_NETWORKS: {error}") from error
        if self.agent_gpus not in ("nvml", "none") and not self.agent_gpus.startswith("/"):
            raise ValueError("ANIMUS_AGENT_GPUS: must be nvml, none or the absolute path of a list")
        if self.agent_max_attempts < 1:
            raise ValueError("ANIMUS_AGENT_MAX_ATTEMPTS: must be at least 1")

    def egress(self) -> Ceiling:
        """Raises ValueError."""
        return Ceiling.parse(self.agent_egress_allow, self.agent_egress_networks)
