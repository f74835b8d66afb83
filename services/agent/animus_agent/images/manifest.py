"""An image's platform manifest and configuration, checked against their digests (OCI image-spec 1.1, Docker schema 2).

The chain: the contract's digest is the manifest's, the manifest names the configuration's, the configuration names the
digest of each layer's uncompressed bytes. Only sha256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from animus_agent.errors import ImageRefused
from animus_kit.digest import PREFIXED_RE, sha256

MAX_DOCUMENT_BYTES = 4 << 20
MAX_LAYERS = 256

_MANIFESTS = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
_INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_CONFIGS = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
_LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
}


class BlobSource(Protocol):
    """Where bytes come from. They are hostile until hashed."""

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        """The bytes of `digest`, which the manifest or image `container_digest` names. Raises BlobError."""


@dataclass(frozen=True, slots=True)
class Layer:
    digest: str
    size: int
    compression: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    digest: str
    platform: str
    layers: tuple[Layer, ...]


def read_document(source: BlobSource, digest: str, container: str) -> bytes:
    """A small blob as a whole, verified."""
    data = bytearray()
    for chunk in source.open(digest, container):
        data += chunk
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ImageRefused(f"{digest} is larger than {MAX_DOCUMENT_BYTES} bytes", "IMAGE_DOCUMENT_TOO_LARGE")
    if sha256(bytes(data)) != digest:
        raise ImageRefused(f"the bytes of {digest} have another digest", "IMAGE_DIGEST_MISMATCH")
    return bytes(data)


def load(source: BlobSource, digest: str, platform: str) -> Image:
    """Reads manifest and configuration. Raises ImageRefused, BlobError."""
    manifest = _object(read_document(source, digest, digest), "manifest")
    kind = manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json")
    if not isinstance(kind, str):
        raise ImageRefused("the manifest's media type is no text", "IMAGE_MANIFEST_INVALID")
    if kind in _INDEXES or "manifests" in manifest:
        raise ImageRefused("an index names several platforms; pin the platform's manifest", "IMAGE_IS_INDEX")
    if manifest.get("schemaVersion") != 2 or kind not in _MANIFESTS:
        raise ImageRefused(f"not an image manifest: {kind!r}", "IMAGE_MANIFEST_INVALID")
    config_digest, config_size = _descriptor(manifest.get("config"))
    config_kind = manifest["config"].get("mediaType")
    if not isinstance(config_kind, str) or config_kind not in _CONFIGS:
        raise ImageRefused("the configuration is not an image's: some other artifact", "IMAGE_MANIFEST_INVALID")
    if config_size > MAX_DOCUMENT_BYTES:
        raise ImageRefused(f"a configuration of {config_size} bytes", "IMAGE_DOCUMENT_TOO_LARGE")
    config_bytes = read_document(source, config_digest, digest)
    if len(config_bytes) != config_size:
        raise ImageRefused("the configuration has another size than the manifest says", "IMAGE_SIZE_MISMATCH")
    config = _object(config_bytes, "configuration")
    actual = f"{config.get('os')}/{config.get('architecture')}"
    if actual != platform:
        raise ImageRefused(f"the image is for {actual[:100]!r}, the contract for {platform}", "IMAGE_PLATFORM_MISMATCH")
    return Image(digest, actual, _layers(manifest, config))


def _layers(manifest: dict, config: dict) -> tuple[Layer, ...]:
    descriptors = manifest.get("layers")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) and rootfs.get("type") == "layers" else None
    if not isinstance(descriptors, list) or not isinstance(diff_ids, list) or len(descriptors) != len(diff_ids):
        raise ImageRefused("the manifest's layers and the configuration's diff_ids differ", "IMAGE_LAYERS_MISMATCH")
    if not 1 <= len(descriptors) <= MAX_LAYERS:
        raise ImageRefused(f"an image has 1 to {MAX_LAYERS} layers", "IMAGE_LAYERS_MISMATCH")
    layers = []
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        digest, size = _descriptor(descriptor)
        if not isinstance(diff_id, str) or not PREFIXED_RE.fullmatch(diff_id):
            raise ImageRefused("a diff_id is no sha256 digest", "IMAGE_DIGEST_INVALID")
        kind = descriptor.get("mediaType")
        compression = _LAYERS.get(kind) if isinstance(kind, str) else None
        if compression is None:
            raise ImageRefused(f"a layer of type {str(kind)[:200]!r}", "IMAGE_LAYER_TYPE")
        if descriptor.get("urls"):
            # Foreign layers: bytes from wherever the image's author says.
            raise ImageRefused("a layer that is to be fetched from elsewhere", "IMAGE_LAYER_TYPE")
        layers.append(Layer(digest, size, compression, diff_id))
    return tuple(layers)


def _descriptor(value: object) -> tuple[str, int]:
    if not isinstance(value, dict):
        raise ImageRefused("a descriptor is missing", "IMAGE_MANIFEST_INVALID")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not PREFIXED_RE.fullmatch(digest):
        raise ImageRefused(f"not a sha256 digest: {str(digest)[:100]!r}", "IMAGE_DIGEST_INVALID")
    if type(size) is not int or size < 0:
        raise ImageRefused("a descriptor without a size", "IMAGE_MANIFEST_INVALID")
    return digest, size


def _once(pairs: list[tuple[str, object]]) -> dict:
    """A key that stands twice means one thing to one reader and another to the next."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _object(data: bytes, what: str) -> dict:
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ImageRefused(f"the {what} is not a JSON object", "IMAGE_MANIFEST_INVALID")
    return value
