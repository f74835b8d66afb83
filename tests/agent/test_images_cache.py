"""The cache of root file systems: used, verified, evicted, shared by many, and what a full disk does to it."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from animus_agent.attempt import prepare, steps
from animus_agent.attempt.failure import AttemptFailed, FailureClass
from animus_agent.errors import BlobError, ImageRefused, NodeDiskFull
from animus_agent.images.cache import ImageCache
from animus_agent.sandbox import quota
from animus_agent.testing import PLATFORM, MemoryBlobs, World, layer, put_image
from animus_agent.trees import TreeCache
from animus_kit.digest import hex_of, sha256


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "images")


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


class Gate(MemoryBlobs):
    """Gives bytes only when it is told to, and may fail instead."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        super().__init__()
        self.blobs = blobs.blobs
        self.asked, self.go, self.failing = threading.Event(), threading.Event(), False

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        self.asked.set()
        assert self.go.wait(30)
        if self.failing:
            raise BlobError("the connection broke")
        return super().open(digest, container_digest)


def pull(cache: ImageCache, image: str, source: MemoryBlobs, check: Callable[[], None] = lambda: None) -> list[object]:
    """In a thread, the last item; what came of it first, once it ended."""
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(cache.get(image, PLATFORM, source, check))
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    ended_with = [thread, ended]
    return ended_with


def outcome(pulled: list) -> object:
    pulled[0].join(30)
    return pulled[1][0]


def test_a_failed_leader_fails_alone(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    image = put_image(blobs, layer({"a": bytes(1 << 20)}))
    broken, good = Gate(blobs), MemoryBlobs()
    good.blobs = blobs.blobs
    broken.failing = True
    leader = pull(cache, image, broken)
    assert broken.asked.wait(30)
    followers = [pull(cache, image, good) for _ in range(4)]
    broken.go.set()
    assert isinstance(outcome(leader), BlobError)
    paths = {outcome(follower).path for follower in followers}  # type: ignore[attr-defined]
    assert len(paths) == 1 and good.reads.count(image) == 1
    assert [p.name for p in (tmp_path / "images").iterdir()] == [hex_of(image)]


def test_who_waits_can_be_canceled_and_who_leads_too(cache: ImageCache, blobs: MemoryBlobs, tmp_path: Path) -> None:
    image = put_image(blobs, layer({"a": bytes(1 << 20)}))
    canceled = AttemptFailed(FailureClass.CANCELED, "CANCELED")

    def give_up() -> None:
        if stop.is_set():
            raise canceled

    stop = threading.Event()
    source = Gate(blobs)
    leader = pull(cache, image, source, give_up)
    assert source.asked.wait(30)
    waiting = pull(cache, image, source, give_up)
    stop.set()
    # The leader still stands in its source: the one who waits does not wait for it.
    assert outcome(waiting) is canceled
    source.go.set()
    assert outcome(leader) is canceled
    assert list((tmp_path / "images").iterdir()) == []
    cache.get(image, PLATFORM, source)


def test_what_a_crash_left_is_removed_and_made_again(tmp_path: Path, blobs: MemoryBlobs) -> None:
    image, other = put_image(blobs, layer({"a": b"1"})), put_image(blobs, layer({"b": b"2"}))
    cache = ImageCache(tmp_path / "images")
    home = cache.get(image, PLATFORM, blobs).path.parent
    cache.get(other, PLATFORM, blobs)
    (tmp_path / "images" / ".tmp-partial" / "rootfs" / "x").mkdir(parents=True)
    for broken in (b"", b"[]", b"{}", json.dumps({"bytes": "1", "listing": "", "platform": PLATFORM}).encode()):
        (home / "image.json").write_bytes(broken)
        again = ImageCache(tmp_path / "images", max_bytes=1 << 30)
        again.evict()
        assert (again.get(image, PLATFORM, blobs).path / "a").read_bytes() == b"1"
    assert {p.name for p in (tmp_path / "images").iterdir()} == {hex_of(image), hex_of(other)}


def test_an_adopted_attempt_keeps_its_image_before_it_is_gone_on_with(fake_world: World) -> None:
    """After a restart its container runs already, and others must not evict what it runs on."""
    data = fake_world.blobs.put_tree({"f": b"x"})
    order = fake_world.order("/bin/true", inputs={"data": data})
    fake_world.images.get(fake_world.image, PLATFORM, fake_world.blobs)
    fake_world.trees.get(data, 946684800, "dataset", fake_world.blobs)
    attempt = fake_world.attempt(order)
    prepare.hold_contents(attempt)
    fake_world.images.evict(0)
    assert fake_world.images.digests() == [fake_world.image]
    steps.execute(attempt)
    fake_world.images.evict(0)
    assert fake_world.images.digests() == []


@pytest.fixture
def small_disk(node_dir: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    volumes = quota.TmpfsVolumes(node_dir / "volumes")
    yield volumes.create("disk", 8 << 20).path
    volumes.remove("disk")


def test_a_full_disk_first_costs_what_nobody_uses(small_disk: Path, blobs: MemoryBlobs) -> None:
    cache = ImageCache(small_disk / "images")
    one, two = (put_image(blobs, layer({"a": os.urandom(5 << 20)})) for _ in range(2))
    cache.get(one, PLATFORM, blobs)
    with cache.holding(one), pytest.raises(NodeDiskFull):
        cache.get(two, PLATFORM, blobs)
    # Nothing partial stayed, and what was held is whole.
    assert [p.name for p in (small_disk / "images").iterdir()] == [hex_of(one)]
    assert cache.verify(one)
    assert (cache.get(two, PLATFORM, blobs).path / "a").stat().st_size == 5 << 20
    assert cache.digests() == [two]


def test_a_full_disk_costs_inputs_that_nobody_uses_too(small_disk: Path, blobs: MemoryBlobs) -> None:
    trees = TreeCache(small_disk / "trees")
    one, two = (blobs.put_tree({"a": os.urandom(5 << 20)}) for _ in range(2))
    trees.get(one, 0, "dataset", blobs)
    with trees.holding(one, 0), pytest.raises(NodeDiskFull):
        trees.get(two, 0, "dataset", blobs)
    tree = trees.get(two, 0, "dataset", blobs)
    assert trees.verify(tree)
    assert [p.name for p in (small_disk / "trees").iterdir()] == [f"{hex_of(two)}-0"]


def test_a_tree_that_is_kept_costs_the_same_however_many_there_are(
    tmp_path: Path, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, *others = (blobs.put_tree({"a": bytes([n]) * 10_000}) for n in range(3))
    before = TreeCache(tmp_path / "trees")
    before.get(one, 0, "dataset", blobs)
    oldest = tmp_path / "trees" / f"{hex_of(one)}-0"
    # As a power cut leaves it.
    (oldest / "bytes").write_bytes(b"")
    os.utime(oldest, (0, 0))
    trees = TreeCache(tmp_path / "trees")
    looked: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: looked.append(self) or glob(self, pattern))
    monkeypatch.setattr(Path, "iterdir", lambda self: looked.append(self) or glob(self, "*"))
    for digest in others:
        trees.get(digest, 0, "dataset", blobs)
    assert looked == []
    trees._max_bytes = trees._bytes
    last = blobs.put_tree({"a": b"x"})
    trees.get(last, 0, "dataset", blobs)
    # Over the bound; what the process before had made counts too.
    assert looked == [tmp_path / "trees"]
    kept = list((tmp_path / "trees").iterdir())
    assert {path.name for path in kept} == {f"{hex_of(digest)}-0" for digest in (*others, last)}
    assert trees._bytes == sum(int((home / "bytes").read_text()) for home in kept)


def test_what_nobody_holds_any_more_is_not_counted(tmp_path: Path, cache: ImageCache, blobs: MemoryBlobs) -> None:
    trees, digest = TreeCache(tmp_path / "trees"), sha256(b"")
    with cache.holding(digest), trees.holding(digest, 0):
        with cache.holding(digest), trees.holding(digest, 0):
            pass
        assert cache._held and trees._held
    assert not cache._held and not trees._held


def test_an_image_larger_than_the_disk_is_the_nodes_trouble(small_disk: Path, blobs: MemoryBlobs) -> None:
    cache = ImageCache(small_disk / "images")
    with pytest.raises(NodeDiskFull) as full:
        cache.get(put_image(blobs, layer({"a": os.urandom(9 << 20)})), PLATFORM, blobs)
    assert steps.classify(full.value).failure_class is FailureClass.INFRASTRUCTURE
    assert list((small_disk / "images").iterdir()) == []


def test_what_is_damaged_and_what_is_badly_made_are_told_apart(cache: ImageCache, blobs: MemoryBlobs) -> None:
    bad = put_image(blobs, layer({"../x": b""}))
    with pytest.raises(ImageRefused) as refused:
        cache.get(bad, PLATFORM, blobs)
    assert steps.classify(refused.value).failure_class is FailureClass.USER_ERROR
    good = put_image(blobs, layer({"x": b"1"}))
    blobs.blobs[sha256(layer({"x": b"1"}))] = layer({"../x": b""})
    with pytest.raises(ImageRefused) as refused:
        cache.get(good, PLATFORM, blobs)
    assert steps.classify(refused.value).failure_class is FailureClass.INFRASTRUCTURE
