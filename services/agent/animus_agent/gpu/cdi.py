"""Container Device Interface specifications (github.com/cncf-tags/container-device-interface, SPEC.md 0.3 to 1.0), strictly.

Files in `/etc/cdi` and `/var/run/cdi`, JSON or YAML, say what a container needs to use a device. They are configuration of
root's: a file, or a folder above it, that somebody else could have written is refused, and so is every field that we do
not know, since what it asks for would be left out in silence. A refused file takes its own devices along, nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animus_agent.errors import GpuUnavailable
from animus_agent.gpu.rooted import read_rooted

VERSIONS = frozenset({"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"})
_KIND = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\x00]*", re.ASCII)
HOOK_NAMES = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})


@dataclass(frozen=True, slots=True)
class DeviceNode:
    path: str
    host_path: str
    major: int | None = None
    minor: int | None = None
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class CdiMount:
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CdiHook:
    """`args` begin with the program's own name. `env` and `timeout` as the specification has them."""

    name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Edits:
    """What is done to a container. Additional groups are not among it: its user has none, in any user namespace."""

    env: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    hooks: tuple[CdiHook, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        """Both, each thing once, in order."""
        return Edits(
            tuple(dict.fromkeys(self.env + other.env)),
            tuple(dict.fromkeys(self.nodes + other.nodes)),
            tuple(dict.fromkeys(self.mounts + other.mounts)),
            tuple(dict.fromkeys(self.hooks + other.hooks)),
        )


@dataclass(frozen=True, slots=True)
class CdiDevice:
    """`own`: what is this device's; `common`: what every device of its file needs."""

    name: str
    own: Edits
    common: Edits


@dataclass(frozen=True, slots=True)
class Registry:
    """Every device by its qualified name `vendor/class=name`, and what was refused."""

    devices: dict[str, CdiDevice] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def load(folders: Iterable[Path]) -> Registry:
    """Reads the folders, those that matter more last: a device of a later one replaces that of an earlier."""
    found: dict[str, CdiDevice] = {}
    problems: list[str] = []
    for folder in folders:
        here: dict[str, CdiDevice] = {}
        doubled: set[str] = set()
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            try:
                devices = parse(_document(path))
            except (OSError, ValueError, GpuUnavailable) as error:
                problems.append(f"{path}: {error}"[:1000])
                continue
            doubled |= here.keys() & devices.keys()
            here |= devices
        for name in sorted(doubled):
            del here[name]
            problems.append(f"{folder}: {name} is described by two files")
            found.pop(name, None)
        found |= here
    return Registry(found, tuple(problems))


def _document(path: Path) -> Any:
    data = read_rooted(path)
    if path.suffix == ".json":
        return json.loads(data)
    try:
        import yaml
    except ImportError:
        raise GpuUnavailable(
            "YAML needs PyYAML (animus-agent[cdi]), or write JSON: nvidia-ctk cdi generate --format=json", "CDI_YAML"
        ) from None
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None


def parse(document: Any) -> dict[str, CdiDevice]:
    """The devices of one specification, by qualified name. Raises ValueError, whose message names the place."""
    spec = _object(document, "", "cdiVersion", "kind", "annotations", "devices", "containerEdits")
    version = _text(spec.get("cdiVersion"), "cdiVersion")
    if version not in VERSIONS:
        raise ValueError(f"cdiVersion: {version} is not one of {', '.join(sorted(VERSIONS))}")
    kind = _text(spec.get("kind"), "kind")
    if not _KIND.fullmatch(kind):
        raise ValueError(f"kind: {kind!r} is not vendor/class")
    common = _edits(spec.get("containerEdits", {}), "containerEdits")
    found: dict[str, CdiDevice] = {}
    for at, one in _each(spec.get("devices"), "devices"):
        device = _object(one, at, "name", "annotations", "containerEdits")
        name = _text(device.get("name"), f"{at}.name")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{at}.name: {name!r} is no name of a device")
        qualified = f"{kind}={name}"
        if qualified in found:
            raise ValueError(f"{at}.name: {name} stands before")
        edits = _edits(device.get("containerEdits"), f"{at}.containerEdits")
        found[qualified] = CdiDevice(qualified, edits, common)
    return found


def _edits(value: Any, at: str) -> Edits:
    edits = _object(value, at, "env", "deviceNodes", "mounts", "hooks", "additionalGids", "intelRdt")
    if "intelRdt" in edits:
        raise ValueError(f"{at}.intelRdt: cannot be given")
    env = []
    for where, one in _each(edits.get("env", []), f"{at}.env"):
        if not _VARIABLE.fullmatch(_text(one, where)):
            raise ValueError(f"{where}: not NAME=value")
        env.append(one)
    return Edits(
        tuple(env),
        tuple(_node(one, where) for where, one in _each(edits.get("deviceNodes", []), f"{at}.deviceNodes")),
        tuple(_mount(one, where) for where, one in _each(edits.get("mounts", []), f"{at}.mounts")),
        tuple(_hook(one, where) for where, one in _each(edits.get("hooks", []), f"{at}.hooks")),
    )


def _node(value: Any, at: str) -> DeviceNode:
    node = _object(
        value, at, "path", "hostPath", "type", "major", "minor", "fileMode", "permissions", "uid", "gid"
    )  # fmt: skip
    if node.get("type", "c") not in ("c", "u"):
        raise ValueError(f"{at}.type: only character devices are given")
    path = _path(node.get("path"), f"{at}.path")
    permissions = _text(node.get("permissions", "rw"), f"{at}.permissions")
    if not permissions or set(permissions) - set("rwm"):
        raise ValueError(f"{at}.permissions: {permissions!r} is not made of r, w and m")
    return DeviceNode(
        path,
        _path(node.get("hostPath") or path, f"{at}.hostPath"),
        _number(node.get("major"), f"{at}.major"),
        _number(node.get("minor"), f"{at}.minor"),
        # Making nodes is for nobody in a container.
        "".join(letter for letter in "rw" if letter in permissions),
    )


def _mount(value: Any, at: str) -> CdiMount:
    mount = _object(value, at, "hostPath", "containerPath", "type", "options")
    if mount.get("type", "bind") not in ("", "bind", "none"):
        raise ValueError(f"{at}.type: only bind mounts are made")
    options = tuple(_text(one, where) for where, one in _each(mount.get("options", []), f"{at}.options"))
    return CdiMount(
        _path(mount.get("hostPath"), f"{at}.hostPath"),
        _path(mount.get("containerPath"), f"{at}.containerPath"),
        options,
    )


def _hook(value: Any, at: str) -> CdiHook:
    hook = _object(value, at, "hookName", "path", "args", "env", "timeout")
    name = _text(hook.get("hookName"), f"{at}.hookName")
    if name not in HOOK_NAMES:
        raise ValueError(f"{at}.hookName: there is no {name}")
    return CdiHook(
        name,
        _path(hook.get("path"), f"{at}.path"),
        tuple(_text(one, where) for where, one in _each(hook.get("args", []), f"{at}.args")),
        tuple(_text(one, where) for where, one in _each(hook.get("env", []), f"{at}.env")),
        _number(hook.get("timeout"), f"{at}.timeout"),
    )


def _object(value: Any, at: str, *fields: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{at or 'the file'}: expected an object")
    if unknown := sorted(str(name) for name in value.keys() - set(fields)):
        raise ValueError(f"{at + '.' if at else ''}{unknown[0]}: no such field")
    return value


def _each(value: Any, at: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{at}: expected a list")
    return [(f"{at}[{index}]", one) for index, one in enumerate(value)]


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{at}: expected a string")
    return value


def _number(value: Any, at: str) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{at}: expected a number")
    return value


def _path(value: Any, at: str) -> str:
    text = _text(value, at)
    if not text.startswith("/") or any(part in ("", ".", "..") for part in text[1:].split("/")):
        raise ValueError(f"{at}: {text!r} is not an absolute path in its one form")
    return text
