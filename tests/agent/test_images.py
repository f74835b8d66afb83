"""Images as an enemy would make them, and as they should be."""

import errno
import gzip
import io
import json
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from animus_agent.errors import ImageRefused
from animus_agent.images.cache import ImageCache
from animus_agent.images.stream import Bounds
from animus_agent.testing import PLATFORM, MemoryBlobs, layer, put_image
from animus_kit.digest import hex_of, sha256


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "images", bounds=Bounds(total_bytes=8 << 20, entries=200))


def member(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def extended(headers: dict[str, str], data: bytes = b"") -> bytes:
    """A layer of one file `x` with PAX headers of our own."""
    info = member("x", tarfile.REGTYPE)
    info.size, info.pax_headers = len(data), headers
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


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


REFUSED: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "upwards": (lambda: [layer({"../x": b""})], "IMAGE_PATH_INVALID"),
    "upwards inside": (lambda: [layer({"a/../../x": b""})], "IMAGE_PATH_INVALID"),
    "absolute": (lambda: [layer({"/x": b""})], "IMAGE_PATH_INVALID"),
    "character device": (lambda: [layer({"x": member("x", tarfile.CHRTYPE)})], "IMAGE_ENTRY_TYPE"),
    "block device": (lambda: [layer({"x": member("x", tarfile.BLKTYPE)})], "IMAGE_ENTRY_TYPE"),
    "fifo": (lambda: [layer({"x": member("x", tarfile.FIFOTYPE)})], "IMAGE_ENTRY_TYPE"),
    "hard link to a symlink": (
        lambda: [layer({"s": "/etc/passwd", "h": member("h", tarfile.LNKTYPE, "s")})],
        "IMAGE_LINK_INVALID",
    ),
    "hard link out": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "../etc/passwd")})], "IMAGE_PATH_INVALID"),
    "hard link absolute": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "/etc/passwd")})], "IMAGE_PATH_INVALID"),
    "hard link to nothing": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "no")})], "IMAGE_LINK_INVALID"),
    "hard link to a folder": (
        lambda: [layer({"d": None, "h": member("h", tarfile.LNKTYPE, "d")})],
        "IMAGE_LINK_INVALID",
    ),
    "twice in a layer": (lambda: [layer({"x": b"1", "./x": b"2"})], "IMAGE_DUPLICATE_PATH"),
    "file as folder": (lambda: [layer({"x": b"1", "x/y": b"2"})], "IMAGE_PATH_INVALID"),
    "whiteout of the parent": (lambda: [layer({"d/.wh...": b""})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout of nothing": (lambda: [layer({".wh.": b""})], "IMAGE_WHITEOUT_INVALID"),
    "mount point as link": (lambda: [layer({"animus": "/etc"})], "IMAGE_RESERVED_PATH"),
    "too many entries": (lambda: [layer({f"f{i}": b"" for i in range(300)})], "IMAGE_TOO_MANY_ENTRIES"),
    "too large": (lambda: [layer({"x": bytes(5 << 20)}), layer({"y": bytes(5 << 20)})], "IMAGE_TOO_LARGE"),
    "too deep": (lambda: [layer({"/".join("d" * 1 for _ in range(150)): b""})], "IMAGE_PATH_INVALID"),
    "sparse": (lambda: [layer({"x": member("x", tarfile.GNUTYPE_SPARSE)})], "IMAGE_ENTRY_TYPE"),
    # A kilobyte that unpacks to 32 MiB of zeros, four times what the image may be.
    "sparse by header": (
        lambda: [extended({"GNU.sparse.map": "0,1", "GNU.sparse.realsize": str(32 << 20)}, b"1")],
        "IMAGE_ENTRY_TYPE",
    ),
    "infinite time": (lambda: [extended({"mtime": "inf"})], "IMAGE_LAYER_INVALID"),
    "NUL in a name": (lambda: [extended({"path": "a\0b"})], "IMAGE_LAYER_INVALID"),
    "bytes after the end": (lambda: [layer({"a": b""}) + b"x" * 2048], "IMAGE_LAYER_INVALID"),
    "a broken header in between": (
        lambda: [layer({"a": b""})[:1024] + b"broken" * 512 + layer({"b": b""})],
        "IMAGE_LAYER_INVALID",
    ),
    "no tar": (lambda: [b"this is no tar archive" * 100], "IMAGE_LAYER_INVALID"),
}


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


def test_one_flipped_byte_anywhere_is_refused(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    image = put_image(blobs, layer({"a": b"content"}), layer({"b": b"more"}), compress=gzip.compress)
    for digest, data in list(blobs.blobs.items()):
        for position in {0, len(data) // 2, len(data) - 1}:
            blobs.blobs[digest] = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            with pytest.raises(ImageRefused):
                cache.get(image, PLATFORM, blobs)
        blobs.blobs[digest] = data
    assert list((tmp_path / "images").iterdir()) == []
    cache.get(image, PLATFORM, blobs)


def test_manifests_that_are_refused(cache: ImageCache, blobs: MemoryBlobs) -> None:
    image = put_image(blobs, layer({"a": b""}))
    document = json.loads(blobs.blobs[image])

    def reason(**changes) -> str:
        digest = blobs.put(json.dumps({**document, **changes}).encode())
        with pytest.raises(ImageRefused) as refused:
            cache.get(digest, PLATFORM, blobs)
        return refused.value.reason

    assert reason(mediaType="application/vnd.oci.image.index.v1+json", manifests=[]) == "IMAGE_IS_INDEX"
    assert reason(layers=[]) == "IMAGE_LAYERS_MISMATCH"
    assert reason(layers=[{**document["layers"][0], "mediaType": "x+zstd"}]) == "IMAGE_LAYER_TYPE"
    assert reason(layers=[{**document["layers"][0], "digest": "md5:00"}]) == "IMAGE_DIGEST_INVALID"
    assert reason(layers=[{**document["layers"][0], "size": 1}]) == "IMAGE_SIZE_MISMATCH"
    assert reason(schemaVersion=1) == "IMAGE_MANIFEST_INVALID"
    with pytest.raises(ImageRefused) as refused:
        cache.get(image, "linux/arm64", blobs)
    assert refused.value.reason == "IMAGE_PLATFORM_MISMATCH"


def test_the_cache_is_used_verified_and_evicted(tmp_path: Path, blobs: MemoryBlobs) -> None:
    cache = ImageCache(tmp_path / "images", max_bytes=1 << 20)
    one = put_image(blobs, layer({"a": bytes(700_000)}))
    two = put_image(blobs, layer({"b": bytes(700_000)}))
    path = cache.get(one, PLATFORM, blobs).path
    reads = len(blobs.reads)
    assert cache.get(one, PLATFORM, blobs).path == path and len(blobs.reads) == reads
    # Another process verifies before its first use, and makes it again when it was touched.
    (path / "a").write_bytes(b"touched")
    again = ImageCache(tmp_path / "images", max_bytes=1 << 20)
    assert (again.get(one, PLATFORM, blobs).path / "a").stat().st_size == 700_000
    with again.holding(one):
        again.get(two, PLATFORM, blobs)
        assert one in again.digests()
    again.get(two, PLATFORM, blobs)
    again.evict()
    assert again.digests() == [two]
    assert (tmp_path / "images" / hex_of(two) / "listing").read_bytes().startswith(b'["animus", "dir"')
    assert (
        sha256((tmp_path / "images" / hex_of(two) / "listing").read_bytes())
        == again.get(two, PLATFORM, blobs).listing_digest
    )


def test_concurrent_pulls_fetch_once(cache: ImageCache, blobs: MemoryBlobs) -> None:
    image = put_image(blobs, layer({"a": bytes(1 << 20)}))
    threads = [threading.Thread(target=cache.get, args=(image, PLATFORM, blobs)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.reads.count(image) == 1


def test_a_full_disk_is_not_the_images_fault(
    cache: ImageCache, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("animus_agent.images.unpack.os.write", full)
    with pytest.raises(OSError) as failed:
        unpacked(cache, blobs, layer({"a": b"x"}))
    assert failed.value.errno == errno.ENOSPC
