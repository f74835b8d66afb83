"""What a step may leave behind to deceive or to harm: refused with its reason, or harmless."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from animus_agent.attempt import outputs, steps
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import CANCELED, AttemptFailed, FailureClass
from animus_agent.attempt.ports import SMALL_BLOBS, SMALL_BYTES
from animus_agent.attempt.prepare import work_folder
from animus_agent.errors import BlobError
from animus_agent.sandbox.quota import Volume
from animus_agent.testing import MemoryReporter, World, limits
from animus_kit.documents import manifest
from animus_kit.testing.fixtures import requires_runc

USER, DISK, OURS = FailureClass.USER_ERROR, FailureClass.DISK_LIMIT, FailureClass.INFRASTRUCTURE


def ended(world: World, *names: str, **bounds: int) -> tuple[Attempt, Path]:
    """An attempt whose container has ended, and the folder of its outputs."""
    attempt = world.attempt(world.order("/bin/true", outputs=names, limits=limits(**bounds)))
    steps.verify_contract(attempt)
    attempt.volume = Volume(world.root / "volume", 64 << 20)
    for name in names:
        (work_folder(attempt.volume) / "outputs" / name).mkdir(parents=True)
    return attempt, work_folder(attempt.volume) / "outputs"


def refusal(attempt: Attempt, what: Callable[[Attempt], None] = outputs.hash_outputs) -> tuple[FailureClass, str]:
    with pytest.raises(Exception) as refused:
        what(attempt)
    failure = steps.classify(refused.value)
    # It ends in a message and in a log: text, whatever the names were.
    failure.message.encode()
    return failure.failure_class, failure.reason


def in_folder(path: Path, act: Callable[[], object]) -> None:
    """Paths to sockets are short, and names may be bytes."""
    before = os.getcwd()
    os.chdir(path)
    try:
        act()
    finally:
        os.chdir(before)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        in_folder(path, lambda: one.bind("s"))


def deep(path: Path, depth: int) -> None:
    for _ in range(depth):
        path = path / "d"
        path.mkdir()
    (path / "f").write_bytes(b"")


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def long_path(path: Path) -> None:
    for _ in range(5):
        path = path / ("n" * 250)
        path.mkdir()
    (path / "f").write_bytes(b"")


HOSTILE: dict[str, tuple[Callable[[Path], object], tuple[FailureClass, str]]] = {
    "link to a file of the host": (lambda o: os.symlink("/etc/passwd", o / "x"), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "link to a folder of the host": (lambda o: os.symlink("/etc", o / "x"), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "link inside": (lambda o: ((o / "a").write_bytes(b""), os.symlink("a", o / "b")), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "link to itself": (lambda o: os.symlink("x", o / "x"), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "link to the parent": (lambda o: os.symlink("..", o / "x"), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "link that leads nowhere": (lambda o: os.symlink("/nowhere", o / "x"), (USER, "OUTPUT_SYMLINK_REFUSED")),
    "FIFO": (lambda o: os.mkfifo(o / "x"), (USER, "OUTPUT_SPECIAL_FILE")),
    "FIFO in a folder": (lambda o: ((o / "d").mkdir(), os.mkfifo(o / "d/x")), (USER, "OUTPUT_SPECIAL_FILE")),
    "socket": (bind, (USER, "OUTPUT_SPECIAL_FILE")),
    "character device": (lambda o: os.mknod(o / "x", 0o20666, os.makedev(1, 5)), (USER, "OUTPUT_SPECIAL_FILE")),
    "block device": (lambda o: os.mknod(o / "x", 0o60666, os.makedev(7, 0)), (USER, "OUTPUT_SPECIAL_FILE")),
    "hard link": (lambda o: ((o / "a").write_bytes(b"x"), os.link(o / "a", o / "b")), (USER, "OUTPUT_HARD_LINK")),
    "hard link out": (lambda o: os.link(o / "../../../secret", o / "x"), (USER, "OUTPUT_HARD_LINK")),
    "name that is no text": (
        lambda o: in_folder(o, lambda: os.close(os.open(b"\xff\xfe", os.O_CREAT | os.O_WRONLY))),
        (USER, "OUTPUT_PATH_INVALID"),
    ),
    "name with a line end": (lambda o: (o / "a\nb").write_bytes(b""), (USER, "OUTPUT_PATH_INVALID")),
    "name with an escape": (lambda o: (o / "\x1b[2J").write_bytes(b""), (USER, "OUTPUT_PATH_INVALID")),
    "folder's name with a tab": (
        lambda o: ((o / "a\tb").mkdir(), (o / "a\tb/f").write_bytes(b"")),
        (USER, "OUTPUT_PATH_INVALID"),
    ),
    "path too long": (long_path, (USER, "OUTPUT_PATH_INVALID")),
    "too deep": (lambda o: deep(o, 70), (USER, "OUTPUT_TOO_DEEP")),
    "far too deep": (lambda o: deep(o, 900), (USER, "OUTPUT_TOO_DEEP")),
    "too many files": (
        lambda o: [(o / f"f{i}").write_bytes(b"") for i in range(81)],
        (DISK, "OUTPUT_TOO_MANY_ENTRIES"),
    ),
    "too many empty folders": (lambda o: [(o / f"d{i}").mkdir() for i in range(81)], (DISK, "OUTPUT_TOO_MANY_ENTRIES")),
    "too large": (lambda o: (o / "x").write_bytes(bytes((1 << 20) + 1)), (DISK, "OUTPUT_TOO_LARGE")),
    "a tebibyte of nothing": (lambda o: sparse(o / "x", 1 << 40), (DISK, "OUTPUT_TOO_LARGE")),
    "too large together": (lambda o: [sparse(o / f"f{i}", 600_000) for i in range(2)], (DISK, "OUTPUT_TOO_LARGE")),
    "nothing": (lambda o: None, (USER, "OUTPUT_MISSING")),
    "folders alone": (lambda o: (o / "d/e").mkdir(parents=True), (USER, "OUTPUT_MISSING")),
    "a file in the output's place": (lambda o: (o.rmdir(), o.write_bytes(b"x")), (USER, "OUTPUT_UNREADABLE")),
    "a link in the output's place": (lambda o: (o.rmdir(), os.symlink("/etc", o)), (USER, "OUTPUT_UNREADABLE")),
    "the output is gone": (lambda o: o.rmdir(), (USER, "OUTPUT_UNREADABLE")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_refused(fake_world: World, case: str) -> None:
    make, expected = HOSTILE[case]
    if "device" in case and os.geteuid() != 0:
        pytest.skip("making devices needs root")
    attempt, folder = ended(fake_world, "o", output_files=80, output_bytes=1 << 20)
    (fake_world.root / "volume/secret").write_bytes(b"another attempt's")
    make(folder / "o")
    assert refusal(attempt) == expected
    assert not any(output.entries for output in attempt.outputs)
    assert fake_world.blobs.written == {}


def test_bounds_are_those_of_all_outputs_together(fake_world: World) -> None:
    attempt, folder = ended(fake_world, "a", "b", output_files=3, output_bytes=1000)
    for name in ("a", "b"):
        for number in range(2):
            (folder / name / str(number)).write_bytes(b"x")
    assert refusal(attempt) == (DISK, "OUTPUT_TOO_MANY_ENTRIES")
    (folder / "b/0").unlink()
    outputs.hash_outputs(attempt)
    (folder / "b/1").write_bytes(bytes(999))
    assert refusal(attempt) == (DISK, "OUTPUT_TOO_LARGE")


def test_a_hard_link_from_one_output_to_another(fake_world: World) -> None:
    attempt, folder = ended(fake_world, "a", "b")
    (folder / "a/x").write_bytes(b"x")
    os.link(folder / "a/x", folder / "b/x")
    assert refusal(attempt) == (USER, "OUTPUT_HARD_LINK")


def test_what_is_odd_and_harmless(fake_world: World) -> None:
    """Names that differ in case or in how they are composed, modes, holes: kept as they are, with two modes."""
    attempt, folder = ended(fake_world, "o")
    names = ["A", "a", "\u00e9", "e\u0301", "back\\slash", "..x", "-rf", " ", "%s"]
    for name in names:
        (folder / "o" / name).write_bytes(name.encode())
    (folder / "o/a").chmod(0o6755)
    (folder / "o/A").chmod(0o000 if os.geteuid() == 0 else 0o400)
    sparse(folder / "o/holes", 100_000)
    outputs.hash_outputs(attempt)
    outputs.upload(attempt)
    (output,) = attempt.outputs
    entries = {e.path: e for e in manifest.loads(output.manifest, manifest.ARTIFACT)}
    assert set(entries) == {*names, "holes"}
    assert [e.path for e in entries.values() if e.kind == manifest.EXECUTABLE] == ["a"]
    assert entries["a"].mode == 0o555 and entries["A"].mode == 0o444
    assert fake_world.blobs.written[entries["holes"].digest] == bytes(100_000)


CHANGES: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda p: p.write_bytes(b"evil!"),
    "more bytes": lambda p: p.write_bytes(b"longer than it was"),
    "gone": lambda p: p.unlink(),
    "a link": lambda p: (p.unlink(), os.symlink("/etc/hostname", p)),
    "a FIFO": lambda p: (p.unlink(), os.mkfifo(p)),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a second name": lambda p: os.link(p, p.with_name("other")),
    "its folder is a link": lambda p: (p.unlink(), p.parent.rmdir(), os.symlink("/etc", p.parent)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_else_is_uploaded_than_was_hashed(fake_world: World, change: str) -> None:
    attempt, folder = ended(fake_world, "o")
    path = folder / "o/d/hostname"
    path.parent.mkdir()
    path.write_bytes(b"good!")
    outputs.hash_outputs(attempt)
    digest = attempt.outputs[0].entries[0].digest
    CHANGES[change](path)
    failure, reason = refusal(attempt, outputs.upload)
    assert failure is OURS and reason in ("OUTPUT_CHANGED", "BLOB_CORRUPT")
    assert digest not in fake_world.blobs.written and fake_world.blobs.sealed == []


def test_small_outputs_are_at_hand_for_the_next_step(fake_world: World) -> None:
    """A chain of steps often stays on one node."""
    attempt, folder = ended(fake_world, "o", "large")
    (folder / "o/x").write_bytes(b"passed on")
    (folder / "large/x").write_bytes(bytes(SMALL_BYTES + 1))
    outputs.hash_outputs(attempt)
    outputs.upload(attempt)
    outputs.keep(attempt)
    small, large = attempt.outputs if attempt.outputs[0].digest.name == "o" else reversed(attempt.outputs)
    fake_world.blobs.reads.clear()
    epoch = attempt.order.action.source_date_epoch
    tree = fake_world.trees.get(small.digest.manifest, epoch, manifest.ARTIFACT, fake_world.blobs)
    assert (tree.path / "x").read_bytes() == b"passed on" and not tree.fresh
    assert fake_world.trees.verify(tree)
    assert fake_world.blobs.reads == []
    with pytest.raises(BlobError):
        fake_world.trees.get(large.digest.manifest, epoch, manifest.ARTIFACT, fake_world.blobs)


def test_small_and_large_outputs_are_all_uploaded_and_sealed(fake_world: World) -> None:
    attempt, folder = ended(fake_world, "o", "p")
    for number in range(SMALL_BLOBS + 10):
        (folder / "o" / str(number)).write_bytes(b"%d" % number)
    (folder / "o/large").write_bytes(bytes(SMALL_BYTES))
    (folder / "p/x").write_bytes(b"x" * 1000)
    outputs.hash_outputs(attempt)
    outputs.upload(attempt)
    for output in attempt.outputs:
        assert {e.digest for e in output.entries} | {output.digest.manifest} <= fake_world.blobs.written.keys()
    assert sorted(fake_world.blobs.sealed) == sorted(output.digest.manifest for output in attempt.outputs)


def test_a_cancel_does_not_wait_for_a_large_file(fake_world: World) -> None:
    attempt, folder = ended(fake_world, "o", output_bytes=1 << 50)
    sparse(folder / "o/x", 1 << 42)
    attempt.kill(CANCELED)
    with pytest.raises(AttemptFailed):
        outputs.hash_outputs(attempt)


# -- in real containers --------------------------------------------------------------------------------------------------


def run(world: World, script: str, **changes: object) -> MemoryReporter:
    reporter = MemoryReporter()
    attempt = world.attempt(world.order("/bin/sh", "-c", script, outputs=("o",), **changes), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    return reporter


@requires_runc
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("dd if=/dev/zero of=/animus/outputs/o/x bs=1 count=0 seek=1000000000000", (DISK, "OUTPUT_TOO_LARGE")),
        ("cd /animus/outputs/o; i=0; while echo > f$i; do i=$((i+1)); done; exit 1", (DISK, "OUTPUT_VOLUME_FULL")),
        ("cd /animus/outputs/o; i=0; while [ $i -lt 120 ]; do echo > f$i; i=$((i+1)); done", (DISK, "OUTPUT_TOO_MANY_ENTRIES")),
        ("ln /animus/params.json /animus/outputs/o/x; ls -l /animus/outputs/o", (USER, "OUTPUT_HARD_LINK")),
        ("mv /animus/outputs/o /animus/outputs/p || rm -r /animus/outputs/o || ln -s /etc /animus/outputs/q; exit 9",
         (USER, "NONZERO_EXIT")),
    ],
)  # fmt: skip
def test_hostile_steps(runc_world: World, script: str, expected: tuple[FailureClass, str]) -> None:
    reporter = run(runc_world, script, limits=limits(output_bytes=16 << 20, output_files=100))
    failure = reporter.results[0].failure
    assert failure is not None, reporter.text
    if "params.json" in script and failure.reason == "OUTPUT_MISSING":
        # The kernel may forbid it at once (fs.protected_hardlinks).
        assert b"not permitted" in reporter.text.lower()
        return
    assert (failure.failure_class, failure.reason) == expected, reporter.text
    assert runc_world.blobs.written == {}


@requires_runc
def test_no_process_of_the_step_writes_after_its_end(runc_world: World) -> None:
    """It leaves writers behind, in sessions of their own, deaf to signals; what is hashed stands still all the same."""
    script = """
        cd /animus/outputs/o
        for n in 1 2 3; do
            sh -c "trap '' TERM HUP INT; while true; do echo $n >> f; echo $n > g$n; done" < /dev/null > /dev/null 2>&1 &
        done
        while [ ! -s f ]; do :; done
    """
    reporter = run(runc_world, script)
    result = reporter.results[0]
    assert result.failure is None, (result.failure, reporter.text)
    (output,) = result.outputs
    entries = manifest.loads(runc_world.blobs.written[output.manifest], manifest.ARTIFACT)
    assert all(entry.digest in runc_world.blobs.written for entry in entries)
