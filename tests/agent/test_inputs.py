"""An input that changes under a running step: its result is tainted, whoever finds it first, and its files stay."""

from collections.abc import Callable
from pathlib import Path

import pytest

from animus_agent import trees
from animus_agent.attempt import steps
from animus_agent.attempt.failure import FailureClass
from animus_agent.testing import EPOCH, MemoryBlobs, MemoryReporter, World
from animus_agent.trees import TreeCache
from animus_kit.documents import manifest
from tests.agent.test_adoption import started
from tests.agent.test_crash import Died, die_before, go_on

Order = tuple[str, bytes, bytes]


@pytest.fixture
def order(fake_world: World) -> Callable[[], Order]:
    """Another step on the same input, each time."""
    data = fake_world.blobs.put_tree({"a": b"alpha"})
    return lambda: fake_world.order("fake", inputs={"data": data})


def change(world: World) -> None:
    (path,) = world.root.glob("trees/*/tree/a")
    path.chmod(0o644)
    path.write_bytes(b"ALPHA")


def dropped(world: World) -> list[bytes]:
    return [path.read_bytes() for path in world.root.glob("trees/.gone-*/tree/a")]


def succeeds(world: World, order: Order) -> None:
    reporter = MemoryReporter()
    go_on(world, order, reporter)
    assert reporter.results[0].failure is None


def assert_tainted(reporter: MemoryReporter) -> None:
    failure = reporter.results[0].failure
    assert failure is not None and (failure.failure_class, failure.reason) == (FailureClass.TAINTED, "INPUT_CHANGED")
    assert not reporter.results[0].provenance


def test_a_good_copy_that_another_attempt_fetched_hides_no_change(
    fake_world: World, order: Callable[[], Order]
) -> None:
    def between(step: str) -> None:
        if step == "verify_inputs_again":
            change(fake_world)
            succeeds(fake_world, order())
            fake_world.trees.evict(0)
            assert dropped(fake_world) == [b"ALPHA"]

    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(order(), reporter), between)
    assert_tainted(reporter)
    # Nobody holds it any more; the good copy stays.
    assert dropped(fake_world) == []
    fake_world.blobs.reads.clear()
    succeeds(fake_world, order())
    assert fake_world.blobs.reads == []


def test_nor_where_the_agent_is_restarted_in_between(fake_world: World, order: Callable[[], Order]) -> None:
    first = order()
    attempt = started(fake_world, first)
    with fake_world.trees.holding(attempt.trees["inputs/data"].digest, EPOCH):
        change(fake_world)
        succeeds(fake_world, order())
        # The next process: what it finds set aside may be under a container that it has yet to adopt.
        fake_world.trees = TreeCache(fake_world.root / "trees")
        assert dropped(fake_world) == [b"ALPHA"]
    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(first, reporter), lambda step: fake_world.trees.evict() if step == "run" else None)
    assert_tainted(reporter)
    assert dropped(fake_world) == []


def test_what_did_not_start_yet_takes_the_good_copy(fake_world: World, order: Callable[[], Order]) -> None:
    first = order()
    with pytest.raises(Died):
        steps.execute(fake_world.attempt(first), die_before("run"))
    change(fake_world)
    succeeds(fake_world, first)


def test_a_copy_that_came_meanwhile_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that find the damage, the second finds the folder of the first in its place."""
    blobs, cache = MemoryBlobs(), TreeCache(tmp_path / "trees")
    digest = blobs.put_tree({"a": b"alpha"})
    tree = cache.get(digest, EPOCH, manifest.DATASET, blobs)

    def replaced(*_: object, **__: object) -> None:
        tree.path.parent.rename(tmp_path / "taken")
        cache.get(digest, EPOCH, manifest.DATASET, blobs)
        raise OSError("gone while it was read")

    with monkeypatch.context() as patch:
        patch.setattr(trees.folder, "build", replaced)
        assert not cache.verify(tree)
    assert cache.verify(tree)


def test_an_earlier_process_left_nothing_for_ever(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    (tmp_path / "trees" / ".gone-0123456789abcdef" / "tree").mkdir(parents=True)
    cache = TreeCache(tmp_path / "trees")
    cache.get(blobs.put_tree({"a": b"alpha"}), EPOCH, manifest.DATASET, blobs)
    assert not list((tmp_path / "trees").glob(".gone-*"))
