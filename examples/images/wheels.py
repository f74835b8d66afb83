"""A layer out of wheels, fetched by this machine's pip and checked against pinned hashes."""

import functools
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from examples.images.oci_layout import Layer, Package

SITE = "usr/local/lib/python3.11/dist-packages"
"""Where Debian's Python 3.11 looks without being told."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


class WheelsUnavailable(RuntimeError):
    """pip could not deliver a pinned wheel; the message ends with what pip said."""


def fetch(requirements: Path, folder: Path) -> list[Path]:
    """The wheels that `requirements` pins, downloaded into `folder` unless they are there. Raises WheelsUnavailable."""
    pinned = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirements.read_text()))
    wanted = len(re.findall(r"^[a-z0-9-]+==", requirements.read_text(), re.MULTILINE))
    present = [path for path in sorted(folder.glob("*.whl")) if _sha256(path) in pinned]
    if len(present) == wanted:
        return present
    folder.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        + ["--require-hashes", "--no-deps", "--only-binary=:all:"]
        + ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
        + [f"--platform={platform}" for platform in _PLATFORMS]
        + ["--dest", str(folder), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise WheelsUnavailable("pip download failed: " + " | ".join(result.stderr.strip().splitlines()[-3:]))
    return [path for path in sorted(folder.glob("*.whl")) if _sha256(path) in pinned]


def add_wheels(layer: Layer, wheels: list[Path]) -> list[Package]:
    """Adds the modules of each wheel below SITE; scripts, headers and the wheels' own tests are left out."""
    return [_add_wheel(layer, path) for path in wheels]


def _add_wheel(layer: Layer, path: Path) -> Package:
    name, version = path.name.split("-")[:2]
    # Open until the layer is written: members are read then, one at a time.
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        target = member.filename
        data = re.match(r"[^/]+\.data/(purelib|platlib)/(.+)", target)
        if data:
            target = data[2]
        elif re.match(r"[^/]+\.data/", target):
            continue
        # Their own tests are a third of the files, each of which every node unpacks and verifies.
        if not member.is_dir() and "/tests/" not in target:
            layer.file(f"{SITE}/{target}", functools.partial(archive.read, member))
    return Package(kind="python", name=name.replace("_", "-"), version=version, digest=f"sha256:{_sha256(path)}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
