"""Images out of archives and registries, as layouts."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_client import image_sources, oci
from animus_client.errors import ClientError
from tests.client.test_oci import INDEX, MANIFEST, Layout
from tests.registry import DockerRegistry, docker_registry, requires_registry

REPOSITORY = "team/base"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "image")
    made.index(made.image({"var/lib/dpkg/status": b"Package: a\nStatus: install ok installed\nVersion: 1\n"}))
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def archive(path: Path, layout: Layout, prefix: str = "", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for file in sorted(layout.path.rglob("*")):
            tar.add(file, prefix + str(file.relative_to(layout.path)), recursive=False)
    return path


def refused(source: str | Path, platform: str | None = None, registries: Path | None = None) -> str:
    with pytest.raises(ClientError) as caught, image_sources.layout_of(source, platform, registries) as found:
        oci.read(found, platform)
    return caught.value.reason


def test_a_layout_is_itself(layout: Layout) -> None:
    with image_sources.layout_of(layout.path) as found:
        assert found == layout.path


@pytest.mark.parametrize(("prefix", "mode"), [("", "w"), ("./", "w"), ("", "w:gz")])
def test_an_archive_of_a_layout(layout: Layout, tmp_path: Path, prefix: str, mode: str) -> None:
    path = archive(tmp_path / "image.tar", layout, prefix, mode)
    with image_sources.layout_of(path, temporary=tmp_path) as found:
        assert oci.read(found).digest == oci.read(layout.path).digest
    assert list(tmp_path.glob("animus-image-*")) == []


def test_archives_that_are_none(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"no archive" * 1000)
    assert refused(path) == "NOT_AN_IMAGE_LAYOUT"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    assert refused(path) == "NOT_AN_IMAGE_LAYOUT"
    archive(path, layout)
    with tarfile.open(path, "a") as tar:
        tar.add(layout.path / "index.json", "./index.json")
    assert refused(path) == "NOT_AN_IMAGE_LAYOUT"
    path.write_bytes(archive(path, layout).read_bytes()[:2000])
    assert refused(path) in ("NOT_AN_IMAGE_LAYOUT", "BLOB_DAMAGED")
    assert refused("nothing/here") == "NOT_AN_IMAGE_LAYOUT"


def test_an_archive_writes_nowhere_else(layout: Layout, tmp_path: Path) -> None:
    path = archive(tmp_path / "evil.tar", layout)
    with tarfile.open(path, "a") as tar:
        for name in ("../evil", "/evil", "blobs/sha256/../../evil", "blobs/sha256/" + "A" * 64):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    room = tmp_path / "room"
    room.mkdir()
    with image_sources.layout_of(path, temporary=room) as found:
        names = {str(p.relative_to(found)) for p in found.rglob("*") if p.is_file() or p.is_symlink()}
        assert names == {str(p.relative_to(layout.path)) for p in layout.path.rglob("*") if p.is_file()}
    assert {p.name for p in tmp_path.iterdir()} == {"image", "evil.tar", "room"}


def push(registry: DockerRegistry, layout: Layout, manifest: dict) -> str:
    """A manifest's descriptor with everything below it, into the registry."""
    data = (layout.path / "blobs/sha256" / manifest["digest"][7:]).read_bytes()
    document = json.loads(data)
    for part in (document["config"], *document["layers"]):
        registry.push_blob(REPOSITORY, (layout.path / "blobs/sha256" / part["digest"][7:]).read_bytes())
    return registry.push_manifest(REPOSITORY, data, manifest["mediaType"])


def typed(layout: Layout, architecture: str, content: bytes) -> dict:
    """An image whose parts say their types, which a registry wants."""
    manifest = layout.image({"etc/hostname": content}, architecture)
    document = json.loads((layout.path / "blobs/sha256" / manifest["digest"][7:]).read_bytes())
    document["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    for part in document["layers"]:
        part["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    return layout.blob(json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **document}).encode(), MANIFEST)


@requires_registry
def test_an_image_in_a_registry(layout: Layout, registry: DockerRegistry) -> None:
    digest = push(registry, layout, typed(layout, "amd64", b"one"))
    name, file = f"{registry.host}/{REPOSITORY}@{digest}", registry.settings_file()
    with image_sources.layout_of(name, registries=file) as found:
        image = oci.read(found)
    assert (image.digest, image.platform, len(image.blobs)) == (digest, "linux/amd64", 3)
    # Without the file neither its authority nor its password is known.
    assert refused(name) == "REGISTRY_TLS"
    ca_only = file.with_name("ca-only.toml")
    ca_only.write_text("\n".join(file.read_text().split("\n")[:4]))
    assert refused(name, registries=ca_only) == "REGISTRY_DENIED"
    assert refused(f"{registry.host}/{REPOSITORY}@sha256:{'0' * 64}", registries=file) == "REGISTRY_NOT_FOUND"
    assert refused(f"{registry.host}/{REPOSITORY}:latest", registries=file) == "NOT_AN_IMAGE_LAYOUT"
    assert refused(f"{registry.host}/{REPOSITORY}@latest", registries=file) == "REFERENCE_INVALID"
    assert refused(name, registries=file.with_name("absent")) == "REGISTRIES_INVALID"


@requires_registry
def test_one_platform_of_an_index(layout: Layout, registry: DockerRegistry) -> None:
    rows = []
    for architecture in ("amd64", "arm64"):
        manifest = typed(layout, architecture, architecture.encode())
        push(registry, layout, manifest)
        rows.append({**manifest, "platform": {"os": "linux", "architecture": architecture}})
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}).encode()
    name = f"{registry.host}/{REPOSITORY}@{registry.push_manifest(REPOSITORY, data, INDEX)}"
    file = registry.settings_file()
    with image_sources.layout_of(name, "linux/arm64", file) as found:
        assert oci.read(found, "linux/arm64").digest == rows[1]["digest"]
    assert refused(name, None, file) == "PLATFORM_AMBIGUOUS"
    assert refused(name, "linux/s390x", file) == "PLATFORM_NOT_FOUND"


@requires_registry
def test_a_registry_that_lies_is_seen(layout: Layout, registry: DockerRegistry) -> None:
    manifest = typed(layout, "amd64", b"lie")
    digest = push(registry, layout, manifest)
    document = json.loads((layout.path / "blobs/sha256" / digest[7:]).read_bytes())
    for part in (digest, document["config"]["digest"], document["layers"][0]["digest"]):
        path = registry.path_of(part)
        good = path.read_bytes()
        for wrong in (good[:-1] + bytes([good[-1] ^ 1]), good + b"x", good[:-1]):
            path.write_bytes(wrong)
            assert refused(f"{registry.host}/{REPOSITORY}@{digest}", None, registry.settings_file()) in (
                "BLOB_DAMAGED",
                "REGISTRY_MISBEHAVED",
                "REGISTRY_UNAVAILABLE",
            )
        path.write_bytes(good)
