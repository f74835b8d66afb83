import hashlib
import os
import stat

import pytest

from animus_kit.documents import DocumentError, folder, manifest
from animus_kit.documents.folder import Limits
from animus_kit.documents.manifest import ARTIFACT, CODE, DATASET, EXECUTABLE, FILE, SYMLINK, Entry


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "b" / "deep").write_bytes(b"deep")
    (tmp_path / "a-b").write_bytes(b"")
    (tmp_path / "run").write_bytes(b"#!")
    (tmp_path / "run").chmod(0o755)
    return tmp_path


def sha(data):
    return hashlib.sha256(data).hexdigest()


def refused(reason, root, profile=ARTIFACT, *args, **kwargs):
    with pytest.raises(DocumentError) as error:
        folder.build(root, profile, *args, **kwargs)
    assert error.value.reason == reason
    return error.value


def test_files_with_size_digest_and_x_bit(tree):
    assert folder.build(tree, ARTIFACT) == [
        Entry("a-b", FILE, 0, sha(b"")),
        Entry("a/b/deep", FILE, 4, sha(b"deep")),
        Entry("run", EXECUTABLE, 2, sha(b"#!")),
    ]


def test_a_dataset_forgets_the_x_bit_and_empty_folders(tree):
    entries = folder.build(tree, DATASET)
    assert {entry.kind for entry in entries} == {FILE}
    (tree / "run").chmod(0o644)
    os.utime(tree / "run", (0, 0))
    (tree / "empty").rmdir()
    assert manifest.dumps(folder.build(tree, DATASET), DATASET) == manifest.dumps(entries, DATASET)


def test_symlinks_are_refused_with_their_path_except_in_code(tree):
    (tree / "a" / "link").symlink_to("../run")
    for profile in (DATASET, ARTIFACT):
        assert refused("SYMLINK_REFUSED", tree, profile).path == "a/link"
    assert Entry("a/link", SYMLINK, target="../run") in folder.build(tree, CODE)
    (tree / "out").symlink_to("/etc/passwd")
    refused("TARGET_INVALID", tree, CODE)


def test_a_linked_folder_is_not_entered(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(b"secret")
    (tree / "door").symlink_to(outside, target_is_directory=True)
    refused("SYMLINK_REFUSED", tree)


def test_special_files_are_refused(tree):
    os.mkfifo(tree / "pipe")
    refused("SPECIAL_FILE", tree)


def test_a_second_name_of_a_file_is_no_output(tree):
    os.link(tree / "run", tree / "again")
    refused("HARD_LINK", tree, ARTIFACT)
    assert len(folder.build(tree, DATASET)) == 4


def test_names_that_are_not_utf8_or_hold_control_characters(tree):
    (tree / "new\nline").write_bytes(b"")
    assert "\n" not in str(refused("PATH_INVALID", tree))
    (tree / "new\nline").unlink()
    with open(os.fsencode(tree) + b"/\xff", "wb"):
        pass
    refused("PATH_INVALID", tree)


def test_bounds(tree):
    refused("TOO_MANY_ENTRIES", tree, ARTIFACT, Limits(max_entries=5))
    refused("TOO_DEEP", tree, ARTIFACT, Limits(max_depth=1))
    refused("TOO_LARGE", tree, ARTIFACT, Limits(max_bytes=5))
    assert folder.build(tree, ARTIFACT, Limits(max_entries=6, max_depth=2, max_bytes=6))


def test_endless_empty_folders_end(tmp_path):
    place = tmp_path
    for _ in range(70):
        place = place / "d"
        place.mkdir()
    refused("TOO_DEEP", tmp_path)


def test_a_file_that_changes_while_it_is_read(tree):
    def grows(found, descriptor):
        result = folder.hash_file(found, descriptor)
        with open(tree / found.path, "ab") as file:
            file.write(b"more")
        return result

    refused("FILE_CHANGED", tree, ARTIFACT, hasher=grows)


def test_a_file_swapped_for_a_link_between_look_and_open(tree, monkeypatch):
    real = os.open

    def swap(name, flags, *args, **kwargs):
        if name == "run":
            (tree / "run").unlink()
            (tree / "run").symlink_to("/etc/passwd")
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(OSError):
        folder.build(tree, ARTIFACT)


def test_a_hasher_may_upload_what_it_reads(tree):
    stored = {}

    def store(found, descriptor):
        data = os.read(descriptor, 1 << 20)
        assert stat.S_ISREG(os.fstat(descriptor).st_mode)
        stored[found.path] = data
        return len(data), sha(data)

    folder.build(tree, ARTIFACT, hasher=store)
    assert stored == {"a/b/deep": b"deep", "a-b": b"", "run": b"#!"}


def test_no_descriptor_is_left_open(tree):
    before = len(os.listdir("/proc/self/fd"))
    folder.build(tree, ARTIFACT)
    refused("TOO_LARGE", tree, ARTIFACT, Limits(max_bytes=5))
    assert len(os.listdir("/proc/self/fd")) == before
