"""Where an image may come from: an OCI layout, a tar archive of one, or a registry. Each ends as a layout on disk.

What comes is checked here as it is written, and once more when the layout is read (`oci.read`); agents check all of it again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from animus_client.errors import ClientError
from animus_client.oci import INDEX_TYPES, LARGEST_JSON, MANIFEST_TYPES
from animus_kit.digest import PREFIXED_RE
from animus_kit.registry import settings
from animus_kit.registry.client import RegistryClient
from animus_kit.registry.errors import RegistryError

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_MEMBER_RE = re.compile(r"(?:\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")
_MAX_MEMBERS = 100_000


@contextmanager
def layout_of(
    source: str | Path, platform: str | None = None, registries: Path | None = None, temporary: Path | None = None
) -> Iterator[Path]:
    """The layout that `source` is or leads to: a folder, a tar archive, or `host[:port]/repository@sha256:…`.

    registries: the file that says how to read registries (animus_kit/registry/settings.py); one that is not in it is read
    without credentials. temporary: where an archive or a pull is put, as large as the image. Raises ClientError
    NOT_AN_IMAGE_LAYOUT, REFERENCE_INVALID, REGISTRIES_INVALID, REGISTRY_…, PLATFORM_AMBIGUOUS, PLATFORM_NOT_FOUND,
    BLOB_DAMAGED.
    """
    path = Path(source)
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="animus-image-", dir=temporary) as made:
        folder = Path(made)
        (folder / "blobs" / "sha256").mkdir(parents=True)
        if path.is_file():
            _extract(path, folder)
        elif "@" in str(source):
            _pull(str(source), platform, registries, folder)
        else:
            raise ClientError(
                "NOT_AN_IMAGE_LAYOUT",
                f"{source} is no folder, no archive, and no host/repository@sha256:… of a registry",
            )
        yield folder


def _extract(archive: Path, folder: Path) -> None:
    """Takes the layout's own files by name and leaves everything else, so that no entry of the archive decides a path."""
    seen: set[str] = set()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for number, member in enumerate(tar):
                name = _MEMBER_RE.fullmatch(member.name)
                if number > _MAX_MEMBERS:
                    raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{archive}: more than {_MAX_MEMBERS} entries")
                if name is None or not member.isreg():
                    continue
                if name[1] in seen:
                    raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{archive}: {name[1]} stands there twice")
                seen.add(name[1])
                content = tar.extractfile(member)
                assert content is not None
                with (folder / name[1]).open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise ClientError("NOT_AN_IMAGE_LAYOUT", f"{archive} is no tar archive: {error}") from error
    if "index.json" not in seen:
        raise ClientError(
            "NOT_AN_IMAGE_LAYOUT",
            f"{archive} holds no OCI layout; make one with skopeo copy … oci-archive:FILE, or docker save of version 25 or later",
        )


def _pull(text: str, platform: str | None, registries: Path | None, folder: Path) -> None:
    try:
        reference = settings.parse_reference(text)
    except ValueError as error:
        raise ClientError("REFERENCE_INVALID", str(error)) from error
    try:
        known = {one.origin: one for one in (settings.load(registries) if registries else ())}
    except ValueError as error:
        raise ClientError("REGISTRIES_INVALID", str(error)) from error
    endpoint = known.get(reference.origin) or settings.Endpoint(reference.origin)
    try:
        puller = _Puller(RegistryClient(endpoint), reference.repository, folder)
        descriptor = puller.image(reference.digest, platform)
    except (RegistryError, ValueError, OSError) as error:
        raise ClientError(getattr(error, "reason", "REGISTRY_ERROR"), str(error)) from error
    (folder / "oci-layout").write_text(_LAYOUT)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))


class _Puller:
    def __init__(self, client: RegistryClient, repository: str, folder: Path) -> None:
        self._client = client
        self._repository = repository
        self._folder = folder / "blobs" / "sha256"

    def image(self, digest: str, platform: str | None) -> dict[str, Any]:
        """Everything below a manifest, or below one platform of an index. Returns the manifest's descriptor."""
        document, size = self._document(digest)
        if document.get("mediaType") in INDEX_TYPES or "manifests" in document:
            digest = _choose(document, platform)
            document, size = self._document(digest)
        parts = [document.get("config"), *_list(document.get("layers"))]
        for part in parts:
            self._blob(part)
        return {"mediaType": document.get("mediaType", MANIFEST_TYPES[0]), "digest": digest, "size": size}

    def _document(self, digest: str) -> tuple[dict[str, Any], int]:
        path = self._folder / digest.removeprefix("sha256:")
        with path.open("wb") as file:
            size = self._write(self._client.manifest(self._repository, digest), digest, LARGEST_JSON, file)
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ClientError("BLOB_DAMAGED", f"{digest} is no manifest")
        return document, size

    def _blob(self, descriptor: Any) -> None:
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        size = descriptor.get("size") if isinstance(descriptor, dict) else None
        if not isinstance(digest, str) or PREFIXED_RE.fullmatch(digest) is None or type(size) is not int:
            raise ClientError("BLOB_DAMAGED", "the manifest names a part without a sha256 digest and a size")
        path = self._folder / digest.removeprefix("sha256:")
        if path.exists():
            return
        with path.open("wb") as file:
            self._write(self._client.blob(self._repository, digest), digest, size, file)

    def _write(self, chunks: Iterator[bytes], digest: str, most: int, file: IO[bytes]) -> int:
        hasher, size = hashlib.sha256(), 0
        for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise ClientError("BLOB_DAMAGED", f"the registry sends more than the {most} bytes of {digest}")
            hasher.update(chunk)
            file.write(chunk)
        if "sha256:" + hasher.hexdigest() != digest:
            raise ClientError("BLOB_DAMAGED", f"the registry's bytes of {digest} have another digest")
        return size


def _choose(index: dict[str, Any], platform: str | None) -> str:
    found: dict[str, str] = {}
    for row in _list(index.get("manifests")):
        about = row.get("platform") if isinstance(row, dict) else None
        digest = row.get("digest") if isinstance(row, dict) else None
        if not isinstance(about, dict) or not isinstance(digest, str) or PREFIXED_RE.fullmatch(digest) is None:
            continue
        # Attestations that builders add are listed with the platform unknown/unknown. The first of several variants wins.
        if about.get("os") != "unknown" and row.get("mediaType") in MANIFEST_TYPES:
            found.setdefault(f"{about.get('os')}/{about.get('architecture')}", digest)
    if platform is None and len(found) > 1:
        raise ClientError("PLATFORM_AMBIGUOUS", f"the index names {', '.join(sorted(found))}: choose one (--platform)")
    wanted = platform or next(iter(found), "")
    if wanted not in found:
        raise ClientError(
            "PLATFORM_NOT_FOUND", f"the index names {', '.join(sorted(found)) or 'no image'}, not {wanted!r}"
        )
    return found[wanted]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
