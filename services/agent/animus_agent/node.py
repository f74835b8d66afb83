"""The node's parts, made once at start: driver, caches, volumes, what the canaries found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from animus.orchestrator.v1 import node_pb2
from animus_agent import inventory, leftovers, uids
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import AgentError
from animus_agent.gpu import canary as gpu_canary
from animus_agent.gpu import layer
from animus_agent.gpu.devices import FileInventory, GpuInventory, NoGpus
from animus_agent.gpu.nvml import NvmlInventory
from animus_agent.gpu.pool import GpuPool
from animus_agent.had import Had
from animus_agent.images.cache import ImageCache
from animus_agent.images.mirrors import Mirrors
from animus_agent.sandbox import canary, cgroup, quota
from animus_agent.sandbox.fake import FakeDriver
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.settings import Settings
from animus_agent.trees import TreeCache
from animus_kit.documents.sandbox import Feature, HostFingerprint
from animus_kit.registry import settings as registries

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class NodeParts:
    driver: RuncDriver | FakeDriver
    quota: quota.QuotaPool
    images: ImageCache
    trees: TreeCache
    attempts_dir: Path
    had: Had
    uid_block: int
    node: inventory.Node
    host: HostFingerprint
    egress: Ceiling = Ceiling()
    gpus: GpuPool = field(default_factory=GpuPool)


def assemble(settings: Settings) -> NodeParts:
    """Raises SandboxUnavailable when this node cannot isolate anything."""
    for folder in (settings.agent_state_dir, settings.agent_state_dir / "attempts", settings.agent_run_dir):
        # Containers' mapped users pass through these to their mounts; they can list none of them.
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        folder.chmod(0o711)
    state = settings.agent_state_dir
    uid_block = uids.BLOCKS[0]
    driver: RuncDriver | FakeDriver
    volumes: quota.LoopVolumes | quota.TmpfsVolumes | quota.FolderVolumes
    if settings.agent_driver == "fake":
        driver, volumes = FakeDriver(), quota.FolderVolumes(state / "volumes")
    else:
        state = reachable(state, settings.agent_run_dir / "state")
        leftovers.note(settings.agent_run_dir, settings.agent_state_dir)
        uid_block = uids.claim(settings.agent_state_dir)
        name = leftovers.group_name(settings.agent_state_dir)
        driver = RuncDriver(settings.agent_run_dir / "runc", cgroup.detect(settings.agent_cgroup_parent, name))
        volumes = quota.choose(state / "volumes", allow_tmpfs=settings.agent_tmpfs_volumes)
    gpus = gpu_pool(settings)
    gpus.refresh()
    node = inventory.read(gpus.offered(), settings.agent_cpu_millis, settings.agent_memory_bytes)
    return NodeParts(
        driver=driver,
        quota=quota.QuotaPool(volumes, spare=settings.agent_spare_volumes),
        images=ImageCache(
            state / "images", max_bytes=settings.agent_image_cache_bytes, mirrors=mirrors(settings.agent_registries)
        ),
        trees=TreeCache(state / "trees", max_bytes=settings.agent_input_cache_bytes),
        attempts_dir=state / "attempts",
        had=Had(settings.agent_run_dir / "had"),
        uid_block=uid_block,
        node=node,
        host=inventory.fingerprint(node, driver.versions()),
        egress=settings.egress(),
        gpus=gpus,
    )


def gpu_pool(settings: Settings) -> GpuPool:
    found: GpuInventory
    if settings.agent_gpus.startswith("/"):
        found = FileInventory(Path(settings.agent_gpus))
    elif settings.agent_gpus == "none" or settings.agent_driver != "runc":
        found = NoGpus()
    else:
        found = NvmlInventory()
    folders = [Path(folder) for folder in settings.agent_cdi_dirs]
    return GpuPool(found, folders, settings.agent_gpu_uuids, settings.agent_cdi_hooks)


def mirrors(path: Path | None) -> Mirrors:
    """Raises AgentError when the file is not usable."""
    if path is None:
        return Mirrors()
    try:
        return Mirrors(registries.load(path))
    except ValueError as error:
        raise AgentError(f"ANIMUS_AGENT_REGISTRIES: {error}", "REGISTRIES_INVALID") from error


def reachable(folder: Path, link: Path) -> Path:
    """`folder` itself, or where it is bound to if a container's mapped user could not pass through its parents, as
    under /root. Repeatable."""
    if all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents):
        return folder
    link.mkdir(exist_ok=True, mode=0o711)
    if not quota.mounted(link):
        quota.bind(folder, link)
    return link


def purge(settings: Settings) -> None:
    """Ends every container and removes every mount and cgroup of an agent that does not run; keeps its files."""
    parts = assemble(settings)
    for container in parts.driver.ids():
        parts.driver.remove(container)
    for folder in parts.attempts_dir.iterdir():
        layer.remove(folder)
    parts.quota.start(set())
    parts.quota.close()
    parts.driver.close()
    quota.unmount(settings.agent_run_dir / "state")
    leftovers.remove(settings.agent_run_dir)
    uids.release(settings.agent_state_dir)


def examine(parts: NodeParts) -> tuple[Feature, ...]:
    """The canaries' findings; to be called after the pool was started."""
    directory = parts.attempts_dir.parent / "canary"
    found = canary.examine(parts.driver, parts.quota, directory, parts.egress)
    return tuple(
        sorted((*found, *gpu_canary.examine(parts.driver, parts.quota, directory, parts.gpus)), key=lambda f: f.name)
    )


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
