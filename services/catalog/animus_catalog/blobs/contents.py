"""Reading manifests and images out of the store, and checking that a project may name what they name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

import sqlalchemy as sa

from animus_catalog.blobs.store import BlobStore
from animus_catalog.domain.contents import Contents, Entry, Kind
from animus_catalog.domain.environments import (
    MANIFEST_MAX_BYTES,
    Descriptor,
    ImageManifest,
    parse_image,
    parse_platform,
)
from animus_catalog.domain.errors import BlobNotInProject, ImageInvalid, ManifestInvalid
from animus_catalog.store import blobs as owned
from animus_kit.db.engine import transaction
from animus_kit.documents import manifest
from animus_kit.documents.errors import DocumentError

_BATCH = 5000
FIELDS = {
    manifest.DATASET: "dataset_version.manifest_digest",
    manifest.CODE: "code_snapshot.manifest_digest",
    manifest.ARTIFACT: "digest",
}
"""Which field of a request names a manifest of which profile."""

Sizes = Callable[[Collection[str]], Mapping[str, int]]
"""Bytes of those of the digests that may be named."""


class ContentReader:
    """Opens what was uploaded as a manifest or image. Runs outside of transactions, since a manifest may be large."""

    def __init__(self, engine: sa.Engine, blobs: BlobStore):
        self._engine = engine
        self._blobs = blobs

    def owned(self, project: str) -> Sizes:
        """What the project owns."""

        def sizes(digests: Collection[str]) -> Mapping[str, int]:
            with transaction(self._engine) as conn:
                return owned.sizes_owned(conn, project, digests)

        return sizes

    def manifest(self, project: str, digest: str, profile: str) -> Contents:
        """A manifest whose every entry the project owns.

        profile: `manifest.DATASET`, `ARTIFACT` or `CODE`. Raises BlobNotInProject with the first entry that the
        project does not own, ManifestInvalid.
        """
        sizes = self.owned(project)
        size = sizes([digest]).get(digest)
        if size is None:
            raise BlobNotInProject(f"projects/{project}", digest)

        def missing(entry: Entry) -> Exception:
            return BlobNotInProject(f"projects/{project}", entry.digest, entry.path)

        return self.checked(digest, size, profile, sizes, missing)

    def checked(
        self, digest: str, size: int, profile: str, sizes: Sizes, missing: Callable[[Entry], Exception]
    ) -> Contents:
        """A manifest of `size` bytes, each of whose entries `sizes` knows. Raises ManifestInvalid and `missing(entry)`."""
        count = total = 0
        entries = self._entries(digest, size, profile)
        while batch := list(islice(entries, _BATCH)):
            known = sizes({entry.digest for entry in batch if entry.digest})
            for entry in batch:
                if entry.digest and entry.digest not in known:
                    raise missing(entry)
                if entry.digest and known[entry.digest] != entry.size:
                    problem = f"{entry.path} has {known[entry.digest]} bytes, not {entry.size}"
                    raise ManifestInvalid(digest, problem, FIELDS[profile])
            count += len(batch)
            total += sum(entry.size for entry in batch)
        return Contents(digest, count, total, lambda: self._entries(digest, size, profile))

    def _entries(self, digest: str, size: int, profile: str) -> Iterator[Entry]:
        try:
            for found in manifest.read(self._blobs.read(digest, size), profile):
                yield Entry(found.path, Kind(found.kind), found.size, found.digest, found.target)
        except DocumentError as error:
            raise ManifestInvalid(digest, f"{error.reason}: {error}", FIELDS[profile]) from None

    def image(self, project: str, digest: str) -> tuple[ImageManifest, str]:
        """An image of which the project owns every part, and its platform.

        Raises BlobNotInProject, ImageInvalid, ImageIndexDigest.
        """
        sizes = self.owned(project)
        image = parse_image(digest, self._small(project, digest, sizes([digest]).get(digest), digest))
        parts = sizes([image.config.digest, *(layer.digest for layer in image.layers)])
        for where, part in image_parts(image):
            if part.digest not in parts:
                raise BlobNotInProject(f"projects/{project}", part.digest, where)
            if parts[part.digest] != part.size:
                raise ImageInvalid(digest, f"{where} has {parts[part.digest]} bytes, not {part.size}")
        config = self._small(project, image.config.digest, image.config.size, digest)
        return image, parse_platform(digest, config)

    def _small(self, project: str, digest: str, size: int | None, image: str) -> bytes:
        if size is None:
            raise BlobNotInProject(f"projects/{project}", digest)
        if size > MANIFEST_MAX_BYTES:
            raise ImageInvalid(image, f"{digest} has {size} bytes, more than {MANIFEST_MAX_BYTES}")
        return self._blobs.read_range(digest, 0, size)


def image_contents(image: ImageManifest) -> Contents:
    """The parts of an image as rows, so that a grant for the image covers them."""
    entries = [Entry(path, Kind.FILE, part.size, part.digest) for path, part in image_parts(image)]
    return Contents(image.digest, len(entries), image.total_size, lambda: entries)


def image_parts(image: ImageManifest) -> list[tuple[str, Descriptor]]:
    """Where each part stands in the manifest."""
    return [("config", image.config), *((f"layers[{n}]", layer) for n, layer in enumerate(image.layers))]
