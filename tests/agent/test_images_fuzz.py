"""Images that are what their digests say and nothing else that is right: each is unpacked or refused, and nothing else
happens."""

import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from animus_agent.errors import ImageRefused
from animus_agent.images.cache import ImageCache
from animus_agent.images.stream import Bounds
from animus_agent.testing import PLATFORM, MemoryBlobs, layer, put_image
from tests.agent.attacks import member

BOUNDS = Bounds(total_bytes=1 << 20, entries=200, depth=16)
PLAIN = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def taken(make: Callable[[MemoryBlobs], str]) -> bool:
    """Whether the image was unpacked. Raises whatever is not a refusal."""
    blobs = MemoryBlobs()
    image = make(blobs)
    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder) / "outside"
        outside.mkdir()
        (outside / "keep").write_bytes(b"kept")
        cache = ImageCache(Path(folder) / "images", bounds=BOUNDS)
        try:
            cache.get(image, PLATFORM, blobs)
            good = True
        except ImageRefused as refused:
            assert refused.reason.startswith("IMAGE_")
            good = False
        assert [p.name for p in outside.iterdir()] == ["keep"] and (outside / "keep").read_bytes() == b"kept"
        left = {p.name for p in (Path(folder) / "images").iterdir()}
        assert left == ({image.removeprefix("sha256:")} if good else set())
        return good


def rich_layer() -> bytes:
    """A bit of all that a layer may hold, with long names and extended headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target in (
            ("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, ""), ("s", tarfile.SYMTYPE, "d/f"),
            ("h", tarfile.LNKTYPE, "d/f"), ("d/.wh.x", tarfile.REGTYPE, ""), ("n" * 120, tarfile.REGTYPE, ""),
            ("\u00e9" * 60, tarfile.SYMTYPE, "t" * 150),
        ):  # fmt: skip
            info = member(name, kind, target)
            info.pax_headers = {"mtime": "1.5", "comment": "c"}
            data = b"content" if kind == tarfile.REGTYPE and ".wh." not in name else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


LAYERS = (rich_layer(), layer({"a/b": b"x" * 700, "l": "../../outside", "l/new": b"x", "n" * 150: b""}))


@given(seed=st.integers(0, 2**32), which=st.integers(0, 1))
@PLAIN
def test_tars_with_bytes_changed(seed: int, which: int) -> None:
    choose = random.Random(seed)
    data = bytearray(LAYERS[which])
    for _ in range(choose.randint(1, 6)):
        place, action = choose.randrange(len(data)), choose.randrange(4)
        if action == 0:
            data[place] = choose.choice(b"\x00\xff/.0789xgLKSMV5123")
        elif action == 1:
            data[place] ^= 1 << choose.randrange(8)
        elif action == 2:
            del data[place : place + choose.choice((1, 512, 1024))]
        else:
            start = choose.randrange(len(data)) // 512 * 512
            data[place // 512 * 512 : 0] = data[start : start + 512 * choose.randint(1, 3)]
        # A header whose sum is wrong says little: make the sums right again.
        data = bytearray(_summed(bytes(data)))
    taken(lambda blobs: put_image(blobs, bytes(data)))


def _summed(data: bytes) -> bytes:
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            total = sum(block[:148]) + 8 * 32 + sum(block[156:])
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["sha256:" + "0" * 64, "sha512:x", "linux", "amd64", "layers"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
WHERE = st.sampled_from(
    [
        (0, ("schemaVersion",)), (0, ("mediaType",)), (0, ("config",)), (0, ("config", "mediaType")), (0, ("config", "size")),
        (0, ("config", "digest")), (0, ("layers",)), (0, ("layers", 0)), (0, ("layers", 0, "mediaType")),
        (0, ("layers", 0, "size")), (0, ("layers", 0, "digest")), (0, ("layers", 0, "urls")), (0, ("manifests",)), (0, ()),
        (1, ("os",)), (1, ("architecture",)), (1, ("rootfs",)), (1, ("rootfs", "type")), (1, ("rootfs", "diff_ids")),
        (1, ("rootfs", "diff_ids", 0)), (1, ()),
    ]
)  # fmt: skip


@given(where=WHERE, value=JSON)
@PLAIN
def test_documents_with_anything_in_any_place(where: tuple[int, tuple[str | int, ...]], value: object) -> None:
    def make(blobs: MemoryBlobs) -> str:
        which, path = where
        manifest = json.loads(blobs.blobs[put_image(blobs, layer({"a": b""}))])
        config = json.loads(blobs.blobs[manifest["config"]["digest"]])
        documents = [manifest, config]
        at: object = documents
        *parents, last = (which, *path)
        for part in parents:
            at = at[part]  # type: ignore[index]
        at[last] = value  # type: ignore[index]
        if which == 1:
            data = json.dumps(documents[1]).encode()
            manifest["config"] |= {"digest": blobs.put(data), "size": len(data)}
        return blobs.put(json.dumps(documents[0]).encode())

    try:
        taken(make)
    except Exception as error:
        # Among what the store has there is no such blob; any other trouble is ours.
        if type(error).__name__ != "BlobError":
            raise


@pytest.mark.parametrize("data", LAYERS[:1])
def test_what_the_changes_begin_with_is_right(data: bytes) -> None:
    assert taken(lambda blobs: put_image(blobs, data))
