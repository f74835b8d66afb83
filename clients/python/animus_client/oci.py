"""OCI image layouts (image-spec 1.1): which image is in there, and the packages it says it was built from."""

from __future__ import annotations

import email.parser
import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus_client.errors import ClientError

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
PACKAGES_PATH = "usr/share/animus/packages.json"
_DPKG = "var/lib/dpkg/status"
LARGEST_JSON = 4 << 20
_LARGEST_LIST = 32 << 20


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int
    path: Path


@dataclass(frozen=True, order=True)
class Package:
    kind: str
    name: str
    version: str
    digest: str = ""


@dataclass(frozen=True)
class Image:
    """digest: of the platform manifest. blobs: manifest, configuration and layers, checked."""

    digest: str
    platform: str
    blobs: tuple[Blob, ...]
    packages: tuple[Package, ...]

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)


def read(layout: str | Path, platform: str | None = None) -> Image:
    """platform: os/architecture, needed where the layout holds several.

    Raises ClientError: NOT_AN_IMAGE_LAYOUT, PLATFORM_NOT_FOUND, PLATFORM_AMBIGUOUS, BLOB_DAMAGED, LAYER_UNSUPPORTED.
    """
    root = Path(layout)
    try:
        index = json.loads((root / "index.json").read_bytes())
        version = json.loads((root / "oci-layout").read_bytes())["imageLayoutVersion"]
    except (OSError, ValueError, KeyError) as error:
        raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{root} is not an OCI image layout: {error}") from error
    if version != "1.0.0":
        raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{root}: unknown layout version {version!r}")
    found = {name: descriptor for descriptor in _manifests(root, index) for name in [_platform(root, descriptor)]}
    if platform is None and len(found) > 1:
        raise ClientError("PLATFORM_AMBIGUOUS", f"{root} holds {', '.join(sorted(found))}: choose one (--platform)")
    wanted = platform or next(iter(found), "")
    if wanted not in found:
        raise ClientError(
            "PLATFORM_NOT_FOUND", f"{root} holds {', '.join(sorted(found)) or 'no image'}, not {wanted!r}"
        )
    descriptor = found[wanted]
    manifest = _json(root, descriptor)
    layers = [_blob(root, layer) for layer in manifest["layers"]]
    blobs = (_blob(root, descriptor), _blob(root, manifest["config"]), *layers)
    return Image(descriptor["digest"], wanted, blobs, tuple(sorted(_packages(layers))))


def _manifests(root: Path, index: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for descriptor in index.get("manifests", []):
        if descriptor.get("mediaType") in INDEX_TYPES:
            yield from _manifests(root, _json(root, descriptor))
        elif descriptor.get("mediaType") in MANIFEST_TYPES:
            # Attestations that builders add are listed with the platform unknown/unknown.
            if descriptor.get("platform", {}).get("os") != "unknown":
                yield descriptor


def _platform(root: Path, descriptor: dict[str, Any]) -> str:
    """By the image's configuration, which is what counts; the index only repeats it."""
    config = _json(root, _json(root, descriptor)["config"])
    return f"{config.get('os')}/{config.get('architecture')}"


def _json(root: Path, descriptor: dict[str, Any]) -> Any:
    blob = _blob(root, descriptor)
    if blob.size > LARGEST_JSON:
        raise ClientError("BLOB_DAMAGED", f"{blob.path} is too large for a manifest")
    return json.loads(blob.path.read_bytes())


def _blob(root: Path, descriptor: dict[str, Any]) -> Blob:
    digest = str(descriptor.get("digest"))
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
        raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{root}: only sha256 digests are taken, not {digest!r}")
    path = root / "blobs" / "sha256" / value
    try:
        with path.open("rb") as file:
            seen = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise ClientError("BLOB_DAMAGED", f"{root}: {digest} is missing") from error
    if seen != value or size != descriptor.get("size"):
        raise ClientError("BLOB_DAMAGED", f"{path}: content or size are not what the layout says")
    return Blob(digest, size, path)


def _packages(layers: list[Blob]) -> set[Package]:
    """Out of the image's own list where it has one, else dpkg's database and Python's dist-info. Later layers win."""
    listed: bytes | None = None
    dpkg: bytes = b""
    python: dict[str, Package] = {}
    for layer in layers:
        try:
            with tarfile.open(layer.path, "r:*") as archive:
                for member in archive:
                    name = member.name.removeprefix("./").removeprefix("/")
                    if not member.isreg() or member.size > _LARGEST_LIST:
                        continue
                    if name == PACKAGES_PATH:
                        listed = archive.extractfile(member).read()  # type: ignore[union-attr]
                    elif name == _DPKG:
                        dpkg = archive.extractfile(member).read()  # type: ignore[union-attr]
                    elif name.endswith(".dist-info/METADATA"):
                        text = archive.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
                        head = email.parser.HeaderParser().parsestr(text)
                        python[name] = Package("python", str(head["Name"]), str(head["Version"]))
        except tarfile.TarError as error:
            raise ClientError("LAYER_UNSUPPORTED", f"{layer.path}: not a tar or tar+gzip layer") from error
    if listed is not None:
        return _listed(listed)
    return {*_dpkg(dpkg.decode("utf-8", "replace")), *python.values()}


def _listed(data: bytes) -> set[Package]:
    try:
        found = json.loads(data)
        rows = found["packages"] if isinstance(found, dict) else found
        return {Package(r["kind"], r["name"], r["version"], r.get("digest", "")) for r in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError("PACKAGES_INVALID", f"/{PACKAGES_PATH} in the image is not a list of packages") from error


def _dpkg(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] not in " \t")
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            yield Package("deb", fields["Package"], fields.get("Version", ""))
