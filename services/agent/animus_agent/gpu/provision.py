"""From CDI devices to what one container gets: nodes, read-only files, links, hooks, environment.

The specifications are root's, the containers are not: whatever they say, a mount is read-only, nosuid and nodev, nothing
lands on our own mount points, and no socket of the host gets in. What is left out for such a reason is noted.

Hooks are programs that run as root on the host. Those of NVIDIA's toolkit that every driver's specification names are
not run: their effect (links, the loader's path) is made here, in a layer of the attempt's own over the shared, read-only
image. Any other hook is refused with its device, unless the node's configuration names its program.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from animus_agent.errors import GpuUnavailable
from animus_agent.gpu import elf
from animus_agent.gpu.cdi import CdiDevice, CdiHook, DeviceNode, Edits
from animus_agent.gpu.rooted import check_program
from animus_agent.sandbox.driver import Device, Hook, Mount

# Made or given otherwise in every container; a driver's files have no business there.
RESERVED = ("/animus", "/dev", "/proc", "/sys", "/tmp")
NVIDIA_HOOKS = frozenset({"nvidia-cdi-hook", "nvidia-ctk"})
# Not needed: nodes have their modes, nobody can make one inside, and the image's CUDA is the image's choice.
WITHOUT_EFFECT = frozenset({"chmod", "disable-device-node-modification", "enable-cuda-compat"})


@dataclass(frozen=True, slots=True)
class Provision:
    """`links`: path in the container → what it points to. `library_folders`: where the loader must look besides.

    `notes`: what the specification names and the container does not get, for people.
    """

    devices: tuple[Device, ...] = ()
    mounts: tuple[Mount, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    library_folders: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def provision(devices: Iterable[CdiDevice], programs: Iterable[str] = ()) -> Provision:
    """What a container with these devices gets. `programs`: hooks that the configuration allows, by absolute path.

    Raises GpuUnavailable CDI_DEVICE_INVALID, CDI_HOOK_REFUSED, NOT_ROOTED.
    """
    chosen = list(devices)
    edits = Edits()
    for one in chosen:
        edits = edits + one.common + one.own
    notes: list[str] = []
    nodes = [_node(node, notes) for node in edits.nodes]
    for one in chosen:
        if not any(found and found.path == node.path for node in one.own.nodes for found in nodes):
            raise GpuUnavailable(f"{one.name} has no device node that a container could open", "CDI_DEVICE_INVALID")
    mounts = [mount for one in edits.mounts if (mount := _mount(one.host_path, one.container_path, notes)) is not None]
    links: dict[str, str] = {}
    folders: dict[str, None] = {}
    hooks: list[Hook] = []
    allowed = frozenset(programs)
    for hook in edits.hooks:
        if hook.path in allowed:
            hooks.append(_hook(hook))
        else:
            _ourselves(hook, links, folders, notes)
    for mount in mounts:
        # What ldconfig would do: a library is found by its own name, which its file seldom has.
        folder, _, name = mount.target.rpartition("/")
        if ".so" in name and (wanted := elf.soname(mount.source)) and wanted != name:
            links.setdefault(f"{folder}/{wanted}", name)
    paths = [device.path for device in nodes if device] + [mount.target for mount in mounts]
    if len(set(paths)) != len(paths):
        raise GpuUnavailable("two things are to be put at one path", "CDI_DEVICE_INVALID")
    return Provision(
        devices=tuple(device for device in nodes if device is not None),
        mounts=tuple(mounts),
        links=tuple(links.items()),
        library_folders=tuple(folders),
        hooks=tuple(hooks),
        env=tuple((name, value) for name, _, value in (one.partition("=") for one in edits.env)),
        notes=tuple(notes),
    )


def _node(node: DeviceNode, notes: list[str]) -> Device | None:
    if not node.path.startswith("/dev/") or node.path.startswith(("/dev/pts/", "/dev/shm/", "/dev/mqueue/")):
        raise GpuUnavailable(f"{node.path} is no place for a device node", "CDI_DEVICE_INVALID")
    try:
        state = os.stat(node.host_path)
    except OSError as error:
        raise GpuUnavailable(f"{node.host_path}: {error.strerror}", "CDI_DEVICE_INVALID") from None
    if not stat.S_ISCHR(state.st_mode):
        raise GpuUnavailable(f"{node.host_path} is no character device", "CDI_DEVICE_INVALID")
    major, minor = os.major(state.st_rdev), os.minor(state.st_rdev)
    if (node.major, node.minor) not in ((None, None), (major, minor)):
        raise GpuUnavailable(
            f"{node.host_path} is {major}:{minor}, not {node.major}:{node.minor}", "CDI_DEVICE_INVALID"
        )
    # In a user namespace the node's owner is nobody: only what everybody may do is left.
    needed = (stat.S_IROTH if "r" in node.permissions else 0) | (stat.S_IWOTH if "w" in node.permissions else 0)
    if not node.permissions or state.st_mode & needed != needed:
        notes.append(
            f"{node.host_path} is left out: its mode {stat.S_IMODE(state.st_mode):04o} keeps a container's user out"
        )
        return None
    return Device(node.host_path, node.path, major, minor, node.permissions)


def _mount(source: str, target: str, notes: list[str]) -> Mount | None:
    if any(target == place or target.startswith(f"{place}/") for place in RESERVED) or target == "/":
        raise GpuUnavailable(f"{target} is no place for a driver's file", "CDI_DEVICE_INVALID")
    try:
        state = os.stat(source)
    except OSError as error:
        raise GpuUnavailable(f"{source}: {error.strerror}", "CDI_DEVICE_INVALID") from None
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        notes.append(f"{source} is left out: a container gets files and folders, no sockets or pipes of the host")
        return None
    return Mount(Path(os.path.realpath(source)), target, executable=True)


def _hook(hook: CdiHook) -> Hook:
    check_program(Path(os.path.realpath(hook.path)))
    return Hook(hook.name, os.path.realpath(hook.path), hook.args, hook.env, hook.timeout)


def _ourselves(hook: CdiHook, links: dict[str, str], folders: dict[str, None], notes: list[str]) -> None:
    """Does what a hook of NVIDIA's would."""
    words = list(hook.args[1:])
    if words[:1] == ["hook"]:
        words = words[1:]
    if os.path.basename(hook.path) not in NVIDIA_HOOKS or not words:
        raise GpuUnavailable(f"the hook {hook.path} is not among those allowed here", "CDI_HOOK_REFUSED")
    command, options = words[0], _options(words[1:])
    if command == "create-symlinks":
        for text in options.get("--link", []):
            target, mark, path = text.partition("::")
            if not mark or not target or not _plain(path):
                raise GpuUnavailable(f"{text!r} is no link", "CDI_DEVICE_INVALID")
            links[path] = target
    elif command == "update-ldcache":
        for folder in options.get("--folder", []):
            if not _plain(folder):
                raise GpuUnavailable(f"{folder!r} is no folder of libraries", "CDI_DEVICE_INVALID")
            folders[folder] = None
    elif command in WITHOUT_EFFECT:
        notes.append(f"the hook {command} is not run")
    else:
        raise GpuUnavailable(f"the hook {hook.path} {command} is not among those allowed here", "CDI_HOOK_REFUSED")


def _options(words: list[str]) -> dict[str, list[str]]:
    """`--name value` and `--name=value`."""
    found: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        name, mark, value = word.partition("=")
        found.setdefault(name, []).append(value if mark else next(rest, ""))
    return found


def _plain(path: str) -> bool:
    """Absolute, in its one form, and not on our own mount points."""
    pure = PurePosixPath(path)
    return (
        pure.is_absolute()
        and str(pure) == path
        and ".." not in pure.parts
        and not any(path == place or path.startswith(f"{place}/") for place in RESERVED)
    )
