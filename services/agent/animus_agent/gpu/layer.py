"""A layer of an attempt's own over the shared image: mount points and links for a driver's files.

The image lies read-only in the cache and is everybody's, and with a user namespace the runtime can make no mount point
in it. Two read-only lower folders and no upper one: nothing that runs can write to either.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from animus_agent.errors import GpuUnavailable
from animus_agent.files import check, libc, remove_tree
from animus_agent.gpu.provision import Provision
from animus_agent.sandbox.quota import mounted, unmount

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
MAX_LINKS = 40
ROOT, ADDED = "rootfs", "driver"


def build(image: Path, directory: Path, what: Provision) -> Path:
    """The root file system for an attempt with this provision: the image itself where nothing must be added.

    Repeatable. Raises GpuUnavailable, OSError.
    """
    if not what.mounts and not what.links:
        return image
    added, root = directory / ADDED, directory / ROOT
    if mounted(root):
        return root
    remove_tree(added)
    added.mkdir(mode=0o755)
    for mount in what.mounts:
        place = added / resolve(image, mount.target)
        if mount.source.is_dir():
            _folder(image, added, place)
        else:
            _folder(image, added, place.parent)
            place.touch(0o644)
    for path, target in what.links:
        # The link itself is replaced, not what an image's link of that name points to.
        folder, _, name = path.rpartition("/")
        place = added / resolve(image, folder or "/") / name
        if _is_folder(image / place.relative_to(added)) or place.exists():
            raise GpuUnavailable(f"the image has a folder at {path}, where a link must be", "CDI_DEVICE_INVALID")
        _folder(image, added, place.parent)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    root.mkdir(exist_ok=True, mode=0o755)
    _overlay(added, image, root)
    return root


def remove(directory: Path) -> None:
    """Detaches the layer; one that was never made is fine. To be called before the attempt's folder is removed."""
    if (directory / ROOT).exists():
        unmount(directory / ROOT)


def resolve(root: Path, path: str) -> Path:
    """Where `path` leads inside `root`, following the links of the image as a process in it would: relative to `root`.

    What does not exist yet is taken as it is written. Raises GpuUnavailable for a loop of links.
    """
    found: list[str] = []
    rest = path.strip("/").split("/") if path.strip("/") else []
    links = 0
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            del found[-1:]
            continue
        try:
            state = os.lstat(root.joinpath(*found, part))
        except OSError:
            found.append(part)
            continue
        if not stat.S_ISLNK(state.st_mode):
            found.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise GpuUnavailable(f"the image's links at {path} lead nowhere", "CDI_DEVICE_INVALID")
        target = os.readlink(root.joinpath(*found, part))
        if target.startswith("/"):
            found = []
        rest = target.strip("/").split("/") + rest
    return Path(*found)


def _is_folder(path: Path) -> bool:
    """Itself, not what it may point to: that would be a folder of the host's."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _folder(image: Path, added: Path, place: Path) -> None:
    """Makes the folders down to `place`, with the modes that they have in the image: ours are what is seen."""
    current = added
    for part in place.relative_to(added).parts:
        current = current / part
        if current.is_dir():
            continue
        try:
            mode = stat.S_IMODE(os.lstat(image / current.relative_to(added)).st_mode)
        except FileNotFoundError:
            mode = 0o755
        current.mkdir()
        current.chmod(mode)


def _overlay(upper: Path, lower: Path, target: Path) -> None:
    if any(character in f"{upper}{lower}" for character in ",:\\"):
        raise GpuUnavailable("an overlay's folders must have no comma, colon or backslash in their paths", "LAYER_PATH")
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    data = f"lowerdir={upper}:{lower}".encode()
    check(libc.mount(b"overlay", os.fsencode(target), b"overlay", flags, data), f"overlay at {target}")
