"""Image layouts, good and bad."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from animus_client import oci
from animus_client.errors import ClientError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Layout:
    def __init__(self, path: Path):
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes, media_type: str = "x") -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def image(self, files: dict[str, bytes], architecture: str = "amd64") -> dict:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        config = self.blob(json.dumps({"os": "linux", "architecture": architecture}).encode())
        layers = [self.blob(raw.getvalue())]
        return self.blob(json.dumps({"config": config, "layers": layers}).encode(), MANIFEST)

    def index(self, *descriptors: dict) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": descriptors}))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image")


def reason(layout: Layout, platform: str | None = None) -> str:
    with pytest.raises(ClientError) as caught:
        oci.read(layout.path, platform)
    return caught.value.reason


def test_one_image_with_its_list_of_packages(layout: Layout) -> None:
    rows = [{"kind": "deb", "name": "libc6", "version": "2.36", "digest": ""}]
    image = layout.image({oci.PACKAGES_PATH: json.dumps(rows).encode(), "var/lib/dpkg/status": b"ignored"})
    layout.index(image)
    found = oci.read(layout.path)
    assert (found.digest, found.platform, len(found.blobs)) == (image["digest"], "linux/amd64", 3)
    assert found.packages == (oci.Package("deb", "libc6", "2.36"),)


def test_packages_of_an_image_that_has_no_list(layout: Layout) -> None:
    status = (
        b"Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\n\n"
    )
    metadata = b"Metadata-Version: 2.1\nName: numpy\nVersion: 2.0\n\nbody"
    layout.index(layout.image({"./var/lib/dpkg/status": status, "usr/lib/numpy-2.0.dist-info/METADATA": metadata}))
    assert oci.read(layout.path).packages == (oci.Package("deb", "a", "1"), oci.Package("python", "numpy", "2.0"))


def test_an_index_of_platforms_asks_which(layout: Layout) -> None:
    images = [layout.image({"a": b"a"}, architecture) for architecture in ("amd64", "arm64")]
    attestation = {**layout.blob(b"{}", MANIFEST), "platform": {"os": "unknown", "architecture": "unknown"}}
    inner = layout.blob(json.dumps({"manifests": [*images, attestation]}).encode(), INDEX)
    layout.index(inner)
    assert reason(layout) == "PLATFORM_AMBIGUOUS"
    assert reason(layout, "linux/s390x") == "PLATFORM_NOT_FOUND"
    assert oci.read(layout.path, "linux/arm64").digest == images[1]["digest"]


def test_damage_is_found(layout: Layout) -> None:
    image = layout.image({"a": b"a"})
    layout.index(image)
    manifest = json.loads((layout.path / "blobs" / "sha256" / image["digest"][7:]).read_bytes())
    layer = layout.path / "blobs" / "sha256" / manifest["layers"][0]["digest"][7:]
    layer.write_bytes(layer.read_bytes() + b"!")
    assert reason(layout) == "BLOB_DAMAGED"
    layer.unlink()
    assert reason(layout) == "BLOB_DAMAGED"


def test_what_is_no_layout(layout: Layout) -> None:
    assert reason(layout) == "NOT_AN_IMAGE_LAYOUT"
    layout.index()
    assert reason(layout) == "PLATFORM_NOT_FOUND"
    layout.index({"mediaType": MANIFEST, "digest": "sha256:../../../etc/passwd", "size": 1})
    assert reason(layout) == "NOT_AN_IMAGE_LAYOUT"
    layout.index({"mediaType": MANIFEST, "digest": "md5:00", "size": 1})
    assert reason(layout) == "NOT_AN_IMAGE_LAYOUT"
