"""Images out of registries: by digest, verified to the last byte, and the catalog for what they do not have."""

import gzip
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_agent import node
from animus_agent.attempt import steps
from animus_agent.errors import AgentError, BlobError, ImageRefused
from animus_agent.images.cache import ImageCache
from animus_agent.images.mirrors import SHUNNED_SECONDS, Mirrors
from animus_agent.testing import PLATFORM, MemoryBlobs, MemoryReporter, World, layer, put_image
from animus_kit.registry.client import Patience
from animus_kit.testing.clock import FakeClock
from tests.kit.registries import scripted, whole
from tests.registry import DockerRegistry, docker_registry, requires_registry

REPOSITORY = "ml/train"
SHORT = Patience(head_seconds=2, stall_seconds=2, tries=2)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(tmp_path: Path, registry: DockerRegistry, clock: FakeClock) -> ImageCache:
    mirrors = Mirrors((registry.endpoint("some/other", REPOSITORY),), SHORT, clock.monotonic)
    return ImageCache(tmp_path / "images", mirrors=mirrors)


def pushed(registry: DockerRegistry, *layers: bytes) -> tuple[str, MemoryBlobs]:
    """An image in the registry; its digest, and its blobs as the catalog would have them."""
    blobs = MemoryBlobs()
    image = put_image(blobs, *layers, compress=gzip.compress)
    for digest, data in blobs.blobs.items():
        if digest != image:
            registry.push_blob(REPOSITORY, data)
    registry.push_manifest(REPOSITORY, blobs.blobs[image])
    return image, blobs


@requires_registry
def test_an_image_comes_from_the_registry_alone(cache: ImageCache, registry: DockerRegistry) -> None:
    image, _ = pushed(registry, layer({"a": b"alone"}), layer({"b": os.urandom(3 << 20)}))
    catalog = MemoryBlobs()
    root = cache.get(image, PLATFORM, catalog).path
    assert (root / "a").read_bytes() == b"alone" and (root / "b").stat().st_size == 3 << 20
    assert catalog.reads == []


@requires_registry
def test_many_attempts_make_one_pull(cache: ImageCache, registry: DockerRegistry) -> None:
    image, _ = pushed(registry, layer({"a": b"once"}))
    threads = [threading.Thread(target=cache.get, args=(image, PLATFORM, MemoryBlobs())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = f"/v2/{REPOSITORY}/manifests/{image}"
    # Asked once without and once with the password, which the registry wants.
    assert cache.digests() == [image] and registry.requests().count(path) <= 2


@requires_registry
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_damage_in_the_registry_is_seen_and_the_catalog_helps(
    cache: ImageCache, registry: DockerRegistry, clock: FakeClock, tmp_path: Path, damage: str
) -> None:
    image, blobs = pushed(registry, layer({"a": damage.encode() * 500}))
    for digest, data in blobs.blobs.items():
        middle = len(data) // 2
        wrong = {
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:-1],
            "grow": data + b"\0",
            "empty": b"",
        }
        registry.path_of(digest).write_bytes(wrong[damage])
        with pytest.raises(BlobError):
            # The registry's bytes are refused, and this catalog has none.
            cache.get(image, PLATFORM, MemoryBlobs())
        assert list((tmp_path / "images").iterdir()) == []
        clock.advance(SHUNNED_SECONDS + 1)
        assert cache.get(image, PLATFORM, blobs).digest == image
        clock.advance(SHUNNED_SECONDS + 1)
        cache.evict(0)
        registry.path_of(digest).write_bytes(data)
    assert cache.get(image, PLATFORM, MemoryBlobs()).digest == image


@requires_registry
def test_what_the_registry_does_not_have_the_catalog_has(cache: ImageCache, registry: DockerRegistry) -> None:
    image, _ = pushed(registry, layer({"a": b"x"}))
    blobs = MemoryBlobs()
    other = put_image(blobs, layer({"b": b"y"}))
    assert cache.get(other, PLATFORM, blobs).digest == other
    # Not having something is no fault.
    assert cache.get(image, PLATFORM, MemoryBlobs()).digest == image
    with pytest.raises(BlobError):
        cache.get("sha256:" + "0" * 64, PLATFORM, MemoryBlobs())


@requires_registry
def test_a_badly_made_image_is_refused_wherever_it_lies(cache: ImageCache, registry: DockerRegistry) -> None:
    image, blobs = pushed(registry, layer({"../x": b""}))
    with pytest.raises(ImageRefused) as refused:
        cache.get(image, PLATFORM, blobs)
    assert refused.value.reason == "IMAGE_PATH_INVALID" and blobs.reads == []
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    ).encode()
    digest = registry.push_manifest(REPOSITORY, index, "application/vnd.oci.image.index.v1+json")
    with pytest.raises(ImageRefused) as refused:
        cache.get(digest, PLATFORM, MemoryBlobs())
    assert refused.value.reason == "IMAGE_IS_INDEX"


@requires_registry
def test_an_attempt_runs_on_an_image_that_only_the_registry_has(fake_world: World, registry: DockerRegistry) -> None:
    image, _ = pushed(registry, layer({"bin/true": b"#!"}))
    mirrors = node.mirrors(registry.settings_file(REPOSITORY))
    fake_world.images = ImageCache(fake_world.root / "images", mirrors=mirrors)
    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(fake_world.order("/bin/true", image=image), reporter))
    assert reporter.results[0].failure is None
    assert image not in fake_world.blobs.reads


def test_a_registry_that_fails_is_passed_over_for_a_while(tmp_path: Path, clock: FakeClock) -> None:
    blobs = MemoryBlobs()
    one, two, three = (put_image(blobs, layer({name: b""})) for name in "abc")
    with scripted(tmp_path, whole(b"", "302 Found", Location="https://169.254.169.254/")) as bad:
        cache = ImageCache(tmp_path / "images", mirrors=Mirrors((bad.endpoint(),), SHORT, clock.monotonic))
        cache.get(one, PLATFORM, blobs)
        assert len(bad.requests) == 1
        cache.get(two, PLATFORM, blobs)
        assert len(bad.requests) == 1
        clock.advance(SHUNNED_SECONDS + 1)
        cache.get(three, PLATFORM, blobs)
        assert len(bad.requests) == 2


def test_a_file_that_is_not_usable_stops_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "registries.toml"
    path.write_text('[[registry]]\nurl = "http://r.example"\n')
    with pytest.raises(AgentError) as refused:
        node.mirrors(path)
    assert refused.value.reason == "REGISTRIES_INVALID"
