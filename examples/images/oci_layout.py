"""Writes OCI image layouts (image-spec 1.1) whose digests depend on the contents alone.

Entries are sorted, owned by root, stamped with one time, and stored uncompressed: the bytes of gzip depend on the zlib
that made them. The layers are ones that a careful unpacker accepts: no devices, no hard links, no path twice, a folder
before what it holds.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

EPOCH = 1_700_000_000
PLATFORM_OS = "linux"
PLATFORM_ARCHITECTURE = "amd64"

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"

PACKAGES_PATH = "usr/share/animus/packages.json"
"""Where an image lists what it was built from; the importer copies it into the environment lock."""

_USR_LINKS = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One package file that went into an image. `kind` is deb or python; `digest` is sha256:<hex> of the file."""

    kind: str
    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Entry:
    type: bytes
    mode: int
    target: str = ""
    read: Callable[[], bytes] | None = None


@dataclass(slots=True)
class Layer:
    """The entries of one layer by path; what is added later replaces what was there."""

    _entries: dict[str, _Entry] = field(default_factory=dict)

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, _Entry(tarfile.DIRTYPE, mode))

    def file(self, path: str, content: bytes | Callable[[], bytes], *, executable: bool = False) -> None:
        """`content` may be a function, so that a large layer is never in memory as a whole."""
        read = content if callable(content) else lambda: content
        self._add(path, _Entry(tarfile.REGTYPE, 0o755 if executable else 0o644, read=read))

    def link(self, path: str, target: str) -> None:
        self._add(path, _Entry(tarfile.SYMTYPE, 0o777, target=target))

    def _add(self, path: str, entry: _Entry) -> None:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ValueError(f"not a path inside an image: {path!r}")
        for parent in reversed(pure.parents[:-1]):
            known = self._entries.setdefault(str(parent), _Entry(tarfile.DIRTYPE, 0o755))
            if known.type != tarfile.DIRTYPE:
                raise ValueError(f"{path!r} stands below {parent}, which is no folder")
        self._entries[str(pure)] = entry

    def write(self, stream: io.BufferedIOBase) -> None:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for path, entry in sorted(self._entries.items(), key=lambda item: item[0].encode()):
                info = tarfile.TarInfo(path)
                info.type, info.mode, info.mtime, info.linkname = entry.type, entry.mode, EPOCH, entry.target
                content = entry.read() if entry.read else b""
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def root_layer() -> Layer:
    """A layer with what every root needs: the merged-/usr links, mount points, a world-writable /tmp, two users."""
    layer = Layer()
    for name in _USR_LINKS:
        layer.folder(f"usr/{name}")
        layer.link(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "var", "etc", "animus"):
        layer.folder(name)
    # runc 1.1 takes the mode of a tmpfs from the folder below it.
    layer.folder("tmp", 0o1777)
    layer.folder("dev/shm", 0o1777)
    layer.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/sbin/nologin\nstep:x:65532:65532:step:/tmp:/sbin/nologin\n",
    )
    layer.file("etc/group", b"root:x:0:\nstep:x:65532:\n")
    layer.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n")
    layer.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    return layer


def packages_document(packages: Iterable[Package]) -> bytes:
    rows = [
        {"digest": one.digest, "kind": one.kind, "name": one.name, "version": one.version}
        for one in sorted(set(packages))
    ]
    return _json(rows)


class LayoutWriter:
    """Writes one image into `folder`, which must not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._layers: list[dict[str, object]] = []

    def add(self, layer: Layer) -> None:
        """Appends a layer above those added before."""
        partial = self._blobs / ".partial"
        with partial.open("wb") as stream:
            layer.write(stream)
        with partial.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = partial.stat().st_size
        partial.rename(self._blobs / digest)
        self._layers.append({"mediaType": LAYER_TYPE, "digest": f"sha256:{digest}", "size": size})

    def finish(self, name: str, environment: dict[str, str]) -> str:
        """Writes configuration, manifest and index; answers the digest of the platform manifest."""
        config = {
            "architecture": PLATFORM_ARCHITECTURE,
            "os": PLATFORM_OS,
            "config": {"Env": [f"{key}={value}" for key, value in sorted(environment.items())]},
            # Layers are uncompressed, so a layer's digest is its diff id.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in self._layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._blob(CONFIG_TYPE, _json(config)),
            "layers": self._layers,
        }
        descriptor = self._blob(MANIFEST_TYPE, _json(manifest))
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [
                descriptor
                | {
                    "platform": {"architecture": PLATFORM_ARCHITECTURE, "os": PLATFORM_OS},
                    "annotations": {"org.opencontainers.image.ref.name": name},
                }
            ],
        }
        (self._folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        (self._folder / "index.json").write_bytes(_json(index))
        return str(descriptor["digest"])

    def _blob(self, media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def manifest_digest(layout: Path) -> str:
    """Digest of the one platform manifest in a layout that this module wrote."""
    (descriptor,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return descriptor["digest"]


def publish(layout: Path, destination: Path) -> None:
    """Puts a copy of `layout` at `destination`, replacing an earlier layout and nothing else."""
    if destination.exists():
        if not (destination / "oci-layout").is_file() and any(destination.iterdir()):
            raise FileExistsError(f"{destination} exists and is not an image layout")
        shutil.rmtree(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(layout, destination)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
