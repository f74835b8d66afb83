"""Image manifests, and the locks made of them (OCI image-spec v1.1: manifest.md, image-index.md, config.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from animus_catalog.domain.errors import ImageIndexDigest, ImageInvalid

MANIFEST_MAX_BYTES = 4 * 1024 * 1024
"""What registries accept (distribution-spec, "Pushing Manifests")."""
MAX_LAYERS = 512

MANIFEST_TYPES = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
INDEX_TYPES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PLATFORM_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Descriptor:
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The configuration and layers of one platform's image."""

    digest: str
    size: int
    config: Descriptor
    layers: Sequence[Descriptor]

    @property
    def total_size(self) -> int:
        """Bytes of manifest, configuration and layers together."""
        return self.size + self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Package:
    kind: str
    name: str
    version: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentLock:
    project: str
    environment: str
    document: bytes
    lock_digest: str
    image_digest: str
    platform: str
    packages: Sequence[Package]
    size: int
    creator: str
    create_time: datetime

    @property
    def id(self) -> str:
        return self.lock_digest.removeprefix("sha256:")[:40]

    @property
    def name(self) -> str:
        return f"projects/{self.project}/environments/{self.environment}/locks/{self.id}"


def parse_image(digest: str, content: bytes) -> ImageManifest:
    """Reads a platform's image manifest. Raises ImageIndexDigest with the platforms, ImageInvalid."""
    document = _object(digest, content, "the manifest")
    media_type = document.get("mediaType")
    if not isinstance(media_type, str | None):
        raise ImageInvalid(digest, "mediaType must be text")
    if media_type in INDEX_TYPES or (media_type is None and "manifests" in document):
        raise ImageIndexDigest(digest, _platforms(document))
    # mediaType may be absent in an OCI manifest; its shape then decides.
    if media_type not in MANIFEST_TYPES and not (media_type is None and {"config", "layers"} <= document.keys()):
        raise ImageInvalid(digest, f"its media type is {str(media_type)[:100]!r}, not that of an image manifest")
    if document.get("schemaVersion") != 2:
        raise ImageInvalid(digest, "schemaVersion must be 2")
    layers = document.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise ImageInvalid(digest, f"layers must be a list of 1 to {MAX_LAYERS}")
    return ImageManifest(
        digest=digest,
        size=len(content),
        config=_descriptor(digest, document.get("config"), "config"),
        layers=[_descriptor(digest, layer, f"layers[{n}]") for n, layer in enumerate(layers)],
    )


def parse_platform(digest: str, config: bytes) -> str:
    """Reads os/architecture[/variant] from an image configuration. Raises ImageInvalid."""
    document = _object(digest, config, "the configuration")
    parts = [document.get("os"), document.get("architecture")]
    if document.get("variant"):
        parts.append(document["variant"])
    if not all(isinstance(part, str) and _PLATFORM_PART.match(part) for part in parts):
        raise ImageInvalid(digest, "the configuration names no os and architecture")
    return "/".join(parts)


def _platforms(index: dict) -> dict[str, str]:
    """Platform to manifest digest, of at most 32 well-formed rows: what a caller may choose from."""
    found = {}
    rows = index.get("manifests")
    for row in rows if isinstance(rows, list) else []:
        platform = row.get("platform") if isinstance(row, dict) else None
        if not isinstance(platform, dict):
            continue
        parts = [platform.get("os"), platform.get("architecture"), *filter(None, [platform.get("variant")])]
        child = row.get("digest")
        if not all(isinstance(part, str) and _PLATFORM_PART.match(part) for part in parts) or "unknown" in parts:
            continue  # attestation manifests stand in an index as unknown/unknown
        if isinstance(child, str) and _DIGEST.match(child) and len(found) < 32:
            found.setdefault("/".join(parts), child)
    return found


def _descriptor(digest: str, value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageInvalid(digest, f"{where} is missing")
    child, size = value.get("digest"), value.get("size")
    if not isinstance(child, str) or not _DIGEST.match(child):
        raise ImageInvalid(digest, f"{where}.digest must be sha256:<64 hex digits>")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageInvalid(digest, f"{where}.size must be a number of bytes")
    return Descriptor(child, size)


def _object(digest: str, content: bytes, what: str) -> dict:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageInvalid(digest, f"{what} is not a JSON object")
    return document
