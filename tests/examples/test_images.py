"""The image builders: the same bytes twice, layers that the agent's unpacker accepts, contents that match their digests."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from examples.images import busybox, debian, oci_layout
from examples.images.oci_layout import Layer, LayoutWriter, Package


def _layers(layout: Path) -> list[Path]:
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / oci_layout.manifest_digest(layout).removeprefix("sha256:")).read_bytes())
    return [blobs / layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]


def _write(folder: Path, layer: Layer) -> str:
    writer = LayoutWriter(folder)
    writer.add(layer)
    return writer.finish("animus.local/test", {"PATH": "/bin"})


def _sample(order: int) -> Layer:
    layer = Layer()
    for name in ("b", "a/x", "a/é")[::order]:
        layer.file(f"opt/{name}", name.encode(), executable=name == "b")
    layer.link("opt/link", "b")
    return layer


def test_the_digest_depends_on_the_contents_alone(tmp_path: Path) -> None:
    assert _write(tmp_path / "one", _sample(1)) == _write(tmp_path / "two", _sample(-1))
    changed = _sample(1)
    changed.file("opt/b", b"b")
    assert _write(tmp_path / "three", changed) != oci_layout.manifest_digest(tmp_path / "one")


def test_every_blob_has_the_digest_it_is_named_by(tmp_path: Path) -> None:
    _write(tmp_path / "it", _sample(1))
    blobs = list((tmp_path / "it" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 3
    assert all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs)


def test_layers_are_sorted_stamped_and_owned_by_root(tmp_path: Path) -> None:
    _write(tmp_path / "it", oci_layout.root_layer())
    (layer,) = _layers(tmp_path / "it")
    with tarfile.open(layer) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, oci_layout.EPOCH)}
    by_name = {member.name: member for member in members}
    assert by_name["tmp"].mode == by_name["dev/shm"].mode == 0o1777
    assert by_name["lib64"].issym() and by_name["lib64"].linkname == "usr/lib64"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_path_outside_the_image_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        Layer().file(path, b"")


def test_nothing_stands_below_a_link() -> None:
    layer = oci_layout.root_layer()
    with pytest.raises(ValueError, match="no folder"):
        layer.file("lib/x", b"")


def test_packages_are_listed_once_and_sorted() -> None:
    one = Package(kind="python", name="numpy", version="2", digest="sha256:" + "0" * 64)
    two = Package(kind="deb", name="libc6", version="1", digest="sha256:" + "1" * 64)
    assert [row["name"] for row in json.loads(oci_layout.packages_document([one, two, one]))] == ["libc6", "numpy"]


def test_publish_replaces_layouts_and_nothing_else(tmp_path: Path) -> None:
    _write(tmp_path / "it", _sample(1))
    oci_layout.publish(tmp_path / "it", tmp_path / "out")
    oci_layout.publish(tmp_path / "it", tmp_path / "out")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError):
        oci_layout.publish(tmp_path / "it", precious)
    assert (precious / "thesis.txt").exists()


def test_the_busybox_image_is_reproducible(tmp_path: Path) -> None:
    try:
        busybox.find()
    except debian.MissingTool as error:
        pytest.skip(str(error))
    assert busybox.build(tmp_path / "one") == busybox.build(tmp_path / "two")
    (layer,) = _layers(tmp_path / "one")
    with tarfile.open(layer) as archive:
        packages = json.load(archive.extractfile(oci_layout.PACKAGES_PATH))
        shell = archive.getmember("usr/bin/sh")
    assert [package["name"] for package in packages] == ["busybox"]
    assert shell.linkname == "busybox"


def _deb_member(name: str, *, link: str = "", content: bytes = b"") -> Layer:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    stream.seek(0)
    layer = Layer()
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            debian._add_member(layer, archive, member)
    return layer


def test_files_of_unmerged_packages_move_below_usr() -> None:
    assert (
        "usr/lib/x86_64-linux-gnu/libc.so.6" in _deb_member("./lib/x86_64-linux-gnu/libc.so.6", content=b"x")._entries
    )
    moved = _deb_member("./lib/terminfo", link="../usr/share/terminfo")._entries
    assert moved["usr/lib/terminfo"].target == "/usr/share/terminfo"
    assert "usr/libexec/x" in _deb_member("./usr/libexec/x", content=b"x")._entries


def test_copyright_notices_stay_and_manuals_go() -> None:
    assert "usr/share/doc/libc6/copyright" in _deb_member("./usr/share/doc/libc6/copyright", content=b"x")._entries
    assert _deb_member("./usr/share/doc/libc6/changelog.gz", content=b"x")._entries == {}
    assert _deb_member("./usr/share/man/man1/x.1.gz", content=b"x")._entries == {}
