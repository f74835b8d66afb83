"""The node's parts, made once at start: driver, caches, volumes, what the canaries found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animus.orchestrator.v1 import node_pb2
from animus_agent import inventory
from animus_agent.images.cache import ImageCache
from animus_agent.sandbox import canary, cgroup, quota
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.settings import Settings
from animus_agent.trees import TreeCache
from animus_kit.documents.sandbox import Feature, HostFingerprint

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class NodeParts:
    driver: RuncDriver | FakeDriver
    quota: quota.QuotaPool
    images: ImageCache
    trees: TreeCache
    attempts_dir: Path
    node: inventory.Node
    host: HostFingerprint


def assemble(settings: Settings) -> NodeParts:
    """Raises SandboxUnavailable when this node cannot isolate anything."""
    state = settings.agent_state_dir
    for folder in (state, state / "attempts", settings.agent_run_dir):
        # Containers' mapped users pass through these to their mounts; they can list none of them.
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        folder.chmod(0o711)
    driver: RuncDriver | FakeDriver
    volumes: quota.LoopVolumes | quota.TmpfsVolumes | quota.FolderVolumes
    if settings.agent_driver == "fake":
        driver, volumes = FakeDriver(), quota.FolderVolumes(state / "volumes")
    else:
        driver = RuncDriver(settings.agent_run_dir / "runc", cgroup.detect(settings.agent_cgroup_parent))
        volumes = quota.choose(state / "volumes", allow_tmpfs=settings.agent_tmpfs_volumes)
    gpus = inventory.NvmlInventory() if settings.agent_driver == "runc" else inventory.NoGpus()
    node = inventory.read(gpus, settings.agent_cpu_millis, settings.agent_memory_bytes)
    return NodeParts(
        driver=driver,
        quota=quota.QuotaPool(volumes, spare=settings.agent_spare_volumes),
        images=ImageCache(state / "images", max_bytes=settings.agent_image_cache_bytes),
        trees=TreeCache(state / "trees", max_bytes=settings.agent_input_cache_bytes),
        attempts_dir=state / "attempts",
        node=node,
        host=inventory.fingerprint(node, driver.versions()),
    )


def examine(parts: NodeParts, settings: Settings) -> tuple[Feature, ...]:
    """The canaries' findings; to be called after the pool was started."""
    return canary.examine(parts.driver, parts.quota, settings.agent_state_dir / "canary")


def describe(node: inventory.Node, features: tuple[Feature, ...]) -> node_pb2.NodeInfo:
    """What the node says of itself at the start of a session."""
    return node_pb2.NodeInfo(
        hostname=node.hostname,
        platform=node.platform,
        agent_version=VERSION,
        cpu_millis=node.cpu_millis,
        memory_bytes=node.memory_bytes,
        kernel=node.kernel,
        gpus=[
            node_pb2.Gpu(uuid=g.uuid, model=g.model, memory_bytes=g.memory_bytes, driver_version=g.driver_version)
            for g in node.gpus.devices
        ],
        capabilities=[
            node_pb2.Capability(name=f.name, available=f.enforced, message="" if f.enforced else f.detail[:4096])
            for f in features
        ],
    )
