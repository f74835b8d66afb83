"""Images as an enemy would make them, and as they should be."""

import gzip
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animus_agent.errors import ImageRefused
from animus_agent.images.cache import ImageCache
from animus_agent.images.stream import Bounds
from animus_agent.testing import PLATFORM, MemoryBlobs, layer, put_image
from animus_kit.digest import sha256
from tests.agent.attacks import REFUSED, extended, member


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "images", bounds=Bounds(total_bytes=8 << 20, entries=200))


def tree(root: Path) -> set[str]:
    ours = {"proc", "dev", "sys", "tmp", "animus"}
    return {str(p.relative_to(root)) for p in root.rglob("*")} - ours


def unpacked(cache: ImageCache, blobs: MemoryBlobs, *layers: bytes, **options) -> Path:
    return cache.get(put_image(blobs, *layers, **options), PLATFORM, blobs).path


def test_layers_replace_each_other(cache: ImageCache, blobs: MemoryBlobs) -> None:
    root = unpacked(
        cache,
        blobs,
        layer({"etc": None, "etc/a": b"1", "usr/lib/x": b"lower", "lib": "usr/lib", "gone": None, "gone/x": b""}),
        layer({"etc/a": b"2", "lib/y": b"through the link", "gone": b"now a file"}),
    )
    assert (root / "etc/a").read_bytes() == b"2"
    assert (root / "usr/lib/y").read_bytes() == b"through the link"
    assert (root / "gone").read_bytes() == b"now a file"


def test_modes_are_made_harmless_and_times_are_kept(cache: ImageCache, blobs: MemoryBlobs) -> None:
    secret, program = member("secret", tarfile.REGTYPE, mode=0o600), member("su", tarfile.REGTYPE, mode=0o4755)
    secret.mtime = 1234
    root = unpacked(cache, blobs, layer({"secret": secret, "su": program, "d": member("d", tarfile.DIRTYPE, mode=0)}))
    assert (root / "secret").stat().st_mode & 0o7777 == 0o644
    assert (root / "secret").stat().st_mtime == 1234
    assert (root / "su").stat().st_mode & 0o7777 == 0o755
    assert (root / "d").stat().st_mode & 0o7777 == 0o755
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_hard_links_inside(cache: ImageCache, blobs: MemoryBlobs) -> None:
    root = unpacked(cache, blobs, layer({"a": b"x"}), layer({"b": member("b", tarfile.LNKTYPE, "a")}))
    assert (root / "b").read_bytes() == b"x"


def test_whiteouts_hide_lower_layers_only(cache: ImageCache, blobs: MemoryBlobs) -> None:
    lower = layer({"d": None, "d/old": b"", "d/sub": None, "d/sub/old": b"", "f": b"", "keep": b""})
    root = unpacked(
        cache,
        blobs,
        lower,
        # The opaque marker comes after entries of its own layer: they stay.
        layer({"d/new": b"n", "d/sub/new": b"n", "d/.wh..wh..opq": b"", ".wh.f": b"", "f2": b""}),
        layer({"f2": b"2", ".wh.f2": b"", ".wh.absent": b""}),
    )
    assert tree(root) == {"d", "d/new", "d/sub", "d/sub/new", "keep", "f2"}
    assert (root / "f2").read_bytes() == b"2"


def test_gzip_layers_also_in_several_members(cache: ImageCache, blobs: MemoryBlobs) -> None:
    def members(data: bytes) -> bytes:
        return gzip.compress(data[:700]) + gzip.compress(data[700:])

    root = unpacked(cache, blobs, layer({"a": b"x" * 5000}), compress=members)
    assert (root / "a").stat().st_size == 5000


@pytest.mark.parametrize("case", REFUSED)
def test_attacks_are_refused_and_leave_nothing(
    cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path, case: str
) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(ImageRefused) as refused:
        unpacked(cache, blobs, *make())
    assert refused.value.reason == reason, refused.value
    assert list((tmp_path / "images").iterdir()) == []


def test_links_are_followed_inside_the_root_only(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = layer({"abs": str(outside), "up": "../../../../../../../.." + str(outside)})
    with pytest.raises(ImageRefused):
        unpacked(cache, blobs, first, layer({"abs/x": b"escaped"}))
    root = unpacked(cache, blobs, first, layer({str(outside)[1:]: None}), layer({"up/x": b"inside"}))
    assert list(outside.iterdir()) == []
    assert (root / str(outside)[1:] / "x").read_bytes() == b"inside"


def test_a_bomb_is_refused_early(cache: ImageCache, blobs: MemoryBlobs) -> None:
    with pytest.raises(ImageRefused) as refused:
        unpacked(cache, blobs, layer({"x": bytes(6 << 20)}), compress=lambda data: gzip.compress(data, 9))
    assert refused.value.reason == "IMAGE_COMPRESSION_BOMB"


def test_a_huge_extended_header_is_refused(cache: ImageCache, blobs: MemoryBlobs) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"comment": "c" * (3 << 20)}
        tar.addfile(info)
    with pytest.raises(ImageRefused) as refused:
        unpacked(cache, blobs, buffer.getvalue())
    assert refused.value.reason == "IMAGE_LAYER_INVALID"


def test_one_flipped_byte_anywhere_is_refused_as_damage(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    """Every byte of every blob; and whatever it breaks first, nobody is told that the image is badly made."""
    image = put_image(blobs, layer({"a": b"content"}), layer({"b": b"more"}), compress=gzip.compress)
    for digest, data in list(blobs.blobs.items()):
        for position in range(len(data)):
            blobs.blobs[digest] = data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]
            with pytest.raises(ImageRefused) as refused:
                cache.get(image, PLATFORM, blobs)
            assert refused.value.reason == "IMAGE_DIGEST_MISMATCH", (position, refused.value)
        for wrong in (data[:-1], data + b"x", b"", data[: len(data) // 2]):
            blobs.blobs[digest] = wrong
            with pytest.raises(ImageRefused) as refused:
                cache.get(image, PLATFORM, blobs)
            assert refused.value.reason in ("IMAGE_DIGEST_MISMATCH", "IMAGE_SIZE_MISMATCH")
        blobs.blobs[digest] = data
    assert list((tmp_path / "images").iterdir()) == []
    cache.get(image, PLATFORM, blobs)


@given(position=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_of_a_plain_layer_is_refused(position: int, bit: int) -> None:
    """Headers, names, sizes, links and content of a tar that no compression protects."""
    blobs = MemoryBlobs()
    entries: dict = {
        "d": None,
        "d/f": b"x" * 3000,
        "s": "d/f",
        "h": member("h", tarfile.LNKTYPE, "d/f"),
        "d/.wh.y": b"",
    }
    data = layer(entries)
    image = put_image(blobs, data)
    place = position % len(data)
    blobs.blobs[sha256(data)] = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache(Path(folder) / "images", bounds=Bounds(total_bytes=8 << 20, entries=200))
        with pytest.raises(ImageRefused) as refused:
            cache.get(image, PLATFORM, blobs)
        assert refused.value.reason == "IMAGE_DIGEST_MISMATCH"
        assert list((Path(folder) / "images").iterdir()) == []


def test_links_and_whiteouts_reach_nothing_outside(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"kept")
    path = str(outside)
    chain = {"a": path, "b": "a", "c/up": "../../../../../../.." + path}
    tries: list[dict[str, bytes | str | tarfile.TarInfo | None]] = [
        {"a/.wh.keep": b""},
        {"b/.wh.keep": b""},
        {"c/up/.wh..wh..opq": b""},
        {".wh.a": b""},
        {"b/new": b"escaped"},
        {"c/up/keep": b"overwritten"},
        {"stolen": member("stolen", tarfile.LNKTYPE, "b/keep")},
    ]
    for upper in tries:
        try:
            root = unpacked(cache, blobs, layer({"c": None, **chain}), layer(upper))
            assert not (root / "stolen").exists()
        except ImageRefused:
            pass
        assert [p.name for p in outside.iterdir()] == ["keep"]
        assert (outside / "keep").read_bytes() == b"kept"


def test_capabilities_and_other_attributes_are_not_set(cache: ImageCache, blobs: MemoryBlobs) -> None:
    headers = {
        "SCHILY.xattr.security.capability": "\x01\x00\x00\x02",
        "SCHILY.xattr.user.x": "y",
        "SCHILY.acl.access": "z",
    }
    root = unpacked(cache, blobs, extended(headers, b"#!"))
    assert (root / "x").read_bytes() == b"#!"
    assert os.listxattr(root / "x") == []


def test_a_bomb_inside_a_bomb_is_only_a_file(cache: ImageCache, blobs: MemoryBlobs) -> None:
    """What a file holds is never expanded; the ratio is the layer's own."""
    inner = gzip.compress(bytes(4 << 20), 9)
    root = unpacked(cache, blobs, layer({"bomb.gz": inner}), compress=gzip.compress)
    assert (root / "bomb.gz").stat().st_size == len(inner)


def test_many_layers_share_one_budget(cache: ImageCache, blobs: MemoryBlobs) -> None:
    with pytest.raises(ImageRefused) as refused:
        unpacked(cache, blobs, *(layer({f"f{n}": os.urandom(1 << 20)}) for n in range(9)), compress=gzip.compress)
    assert refused.value.reason == "IMAGE_TOO_LARGE"


def test_manifests_that_are_refused(cache: ImageCache, blobs: MemoryBlobs) -> None:
    image = put_image(blobs, layer({"a": b""}))
    document = json.loads(blobs.blobs[image])
    first, config = document["layers"][0], document["config"]

    def reason_of(data: bytes) -> str:
        with pytest.raises(ImageRefused) as refused:
            cache.get(blobs.put(data), PLATFORM, blobs)
        return refused.value.reason

    def reason(**changes) -> str:
        return reason_of(json.dumps({**document, **changes}).encode())

    def configured(**changes) -> str:
        data = json.dumps({**json.loads(blobs.blobs[config["digest"]]), **changes}).encode()
        return reason(config={**config, "digest": blobs.put(data), "size": len(data)})

    index = "application/vnd.oci.image.index.v1+json"
    platform = {"os": "linux", "architecture": "amd64"}
    assert reason(mediaType=index, manifests=[]) == "IMAGE_IS_INDEX"
    # An index that calls itself a manifest, and a manifest that is an index besides.
    assert reason(manifests=[{"digest": image, "size": 1, "platform": platform}]) == "IMAGE_IS_INDEX"
    assert reason(mediaType="application/vnd.docker.distribution.manifest.v1+json") == "IMAGE_MANIFEST_INVALID"
    assert reason(schemaVersion=1, fsLayers=[]) == "IMAGE_MANIFEST_INVALID"
    assert reason(schemaVersion="2") == "IMAGE_MANIFEST_INVALID"
    assert reason(mediaType=["x"]) == "IMAGE_MANIFEST_INVALID"
    assert reason_of(b"[]") == reason_of(b"\xff") == reason_of(b"[" * 100_000) == "IMAGE_MANIFEST_INVALID"
    doubled = json.dumps(document).replace('"layers"', '"layers": [], "layers"').encode()
    assert reason_of(doubled) == "IMAGE_MANIFEST_INVALID"
    assert reason_of(b" " * (5 << 20)) == "IMAGE_DOCUMENT_TOO_LARGE"

    assert reason(layers=[]) == reason(layers=[first, first]) == reason(layers="x") == "IMAGE_LAYERS_MISMATCH"
    for kind in (
        "x+zstd", "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ["a"], None, 7,
    ):  # fmt: skip
        assert reason(layers=[{**first, "mediaType": kind}]) == "IMAGE_LAYER_TYPE"
    assert reason(layers=[{**first, "urls": ["https://169.254.169.254/"]}]) == "IMAGE_LAYER_TYPE"
    for digest in ("md5:00", "sha512:" + "0" * 128, "sha256:../../etc/passwd", "sha256:" + "A" * 64, None):
        assert reason(layers=[{**first, "digest": digest}]) == "IMAGE_DIGEST_INVALID"
    assert reason(layers=[{**first, "size": 1}]) == "IMAGE_SIZE_MISMATCH"
    assert reason(layers=[{**first, "size": first["size"] + 1}]) == "IMAGE_SIZE_MISMATCH"
    assert reason(layers=[{**first, "size": 1 << 62}]) == "IMAGE_TOO_LARGE"
    for size in (-1, 1.5, True, "1", None):
        assert reason(layers=[{**first, "size": size}]) == "IMAGE_MANIFEST_INVALID"

    assert (
        reason(config=None)
        == reason(config={**config, "mediaType": "application/vnd.x.chart"})
        == "IMAGE_MANIFEST_INVALID"
    )
    assert reason(config={**config, "size": 1}) == "IMAGE_SIZE_MISMATCH"
    assert reason(config={**config, "size": 5 << 20}) == "IMAGE_DOCUMENT_TOO_LARGE"
    wrong = [sha256(b"another layer")]
    assert configured(rootfs={"type": "layers", "diff_ids": wrong}) == "IMAGE_DIFF_ID_MISMATCH"
    assert configured(rootfs={"type": "layers", "diff_ids": wrong * 300}) == "IMAGE_LAYERS_MISMATCH"
    assert configured(rootfs={"type": "layers+base", "diff_ids": wrong}) == "IMAGE_LAYERS_MISMATCH"
    assert configured(rootfs={"type": "layers", "diff_ids": ["md5:1"]}) == "IMAGE_DIGEST_INVALID"
    assert (
        configured(architecture="arm64") == configured(os="\ud800") == configured(os=None) == "IMAGE_PLATFORM_MISMATCH"
    )
    many = {"layers": [first] * 257}
    data = json.dumps({"rootfs": {"type": "layers", "diff_ids": wrong * 257}, **platform}).encode()
    assert reason(**many, config={**config, "digest": blobs.put(data), "size": len(data)}) == "IMAGE_LAYERS_MISMATCH"
    with pytest.raises(ImageRefused) as refused:
        cache.get(image, "linux/arm64", blobs)
    assert refused.value.reason == "IMAGE_PLATFORM_MISMATCH"
