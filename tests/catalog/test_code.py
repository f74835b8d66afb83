"""CodeService, against repositories that git itself made."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from animus.catalog.v1 import code_pb2 as pb
from animus.catalog.v1 import project_pb2
from animus.type.v1 import manifest_pb2
from animus_catalog.domain import code
from animus_catalog.domain.contents import Entry, Kind
from animus_kit.documents import manifest
from tests.catalog.world import digest_of, refused

FORMATS = {"sha1": pb.CodeSnapshot.OBJECT_FORMAT_SHA1, "sha256": pb.CodeSnapshot.OBJECT_FORMAT_SHA256}
MODES = {"100644": manifest.FILE, "100755": manifest.EXECUTABLE, "120000": manifest.SYMLINK}


@dataclass
class Repository:
    """A repository on disk, and what a push reads out of its objects."""

    path: Path
    object_format: str = "sha1"

    def git(self, *arguments: str) -> bytes:
        identity = {
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "HOME": str(self.path),
        }
        return subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.path,
            env={**os.environ, **identity},
            check=True,
            capture_output=True,
        ).stdout

    def init(self) -> Repository:
        self.path.mkdir()
        self.git("init", "-q", f"--object-format={self.object_format}")
        return self

    def write(self, path: str, content: bytes, executable: bool = False) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755 if executable else 0o644)

    def commit(self, message: str = "message") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").decode().strip()

    def entries(self) -> tuple[list[manifest.Entry], dict[str, bytes]]:
        """The commit's tree as a manifest would hold it, and contents by path. Gitlinks are left out."""
        entries, contents, known = [], {}, {}
        for line in filter(None, self.git("ls-tree", "-rz", "HEAD").split(b"\0")):
            head, path = line.decode().split("\t")
            mode, kind, id = head.split()
            if kind != "blob":
                continue
            if id not in known:
                known[id] = self.git("cat-file", "blob", id)
            content = known[id]
            if mode == "120000":
                entries.append(manifest.Entry(path, manifest.SYMLINK, target=content.decode()))
            else:
                contents[path] = content
                sha256 = digest_of(content).removeprefix("sha256:")
                entries.append(manifest.Entry(path, MODES[mode], len(content), sha256))
        return entries, contents

    def commit_object(self) -> bytes:
        return self.git("cat-file", "commit", "HEAD")


@pytest.fixture(params=["sha1", "sha256"])
def repository(tmp_path, request) -> Repository:
    return Repository(tmp_path / "repository", request.param).init()


def push(world, repository, commit_id="", **changes):
    """The request of a whole push; content is uploaded, nothing is created yet."""
    entries, contents = repository.entries()
    for content in set(contents.values()):
        world.upload(content)
    digest = world.upload(manifest.dumps(changes.pop("entries", entries), manifest.CODE))
    snapshot = pb.CodeSnapshot(
        object_format=FORMATS[repository.object_format],
        commit_id=commit_id or repository.git("rev-parse", "HEAD").decode().strip(),
        manifest_digest=digest,
        repository_url="https://git.example.org/digits",
    )
    commit_object = changes.pop("commit_object", repository.commit_object())
    return pb.CreateCodeSnapshotRequest(parent=world.project, code_snapshot=snapshot, commit_object=commit_object)


def test_every_kind_of_entry_is_recomputed(world, repository):
    repository.write("train.py", b"print('hello')\n")
    repository.write("run.sh", b"#!/bin/sh\n", executable=True)
    repository.write("lib/deep/er/x.py", b"x = 1\n")
    repository.write("lib.py", b"")  # sorts before lib/, which Git compares as "lib/"
    repository.write("lib-more", b"before lib/ as well\n")
    repository.write("ünïcode/名前.txt", b"content\r\n")
    (repository.path / "link").symlink_to("lib/deep/er/x.py")
    (repository.path / "lib" / "up").symlink_to("../train.py")
    commit = repository.commit()
    made = world.code().CreateCodeSnapshot(push(world, repository))
    assert made.name == f"{world.project}/codeSnapshots/{repository.object_format}-{commit[:40]}"
    assert made.commit_id == commit
    assert made.tree_id == repository.git("rev-parse", "HEAD^{tree}").decode().strip()
    assert (made.file_count, made.creator) == (8, "alice")
    assert made == world.code().GetCodeSnapshot(pb.GetCodeSnapshotRequest(name=made.name))
    kind, payload = world.events()[-1]
    assert kind == "catalog.code-snapshot.created"
    assert (payload["name"], payload["commitId"]) == (made.name, commit)
    assert payload["manifestDigest"] == made.manifest_digest
    request = pb.ListCodeSnapshotEntriesRequest(parent=made.name)
    kinds = {entry.path: entry.kind for entry in world.code().ListCodeSnapshotEntries(request).entries}
    assert kinds["run.sh"] == manifest_pb2.ManifestEntry.KIND_EXECUTABLE
    assert kinds["link"] == manifest_pb2.ManifestEntry.KIND_SYMLINK


def test_a_large_file_and_many_small_ones(world, repository):
    repository.write("weights.bin", os.urandom(2_500_000))
    for n in range(270):
        repository.write(f"many/{n % 7}/{n}", b"%d" % (n % 5))
    repository.commit()
    assert world.code().CreateCodeSnapshot(push(world, repository)).file_count == 271


def test_a_commit_with_history_and_a_signature_like_header(world, repository):
    repository.write("a", b"1")
    repository.commit()
    repository.git("checkout", "-q", "-b", "side")
    repository.write("b", b"2")
    repository.commit()
    repository.git("checkout", "-q", "-")
    repository.write("c", b"3")
    repository.commit("mainline\n\nwith a body, ünïcode and no newline at the end")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    assert world.code().CreateCodeSnapshot(push(world, repository)).file_count == 3


def test_an_empty_commit(world, repository):
    repository.commit()
    assert world.code().CreateCodeSnapshot(push(world, repository)).file_count == 0


def test_the_same_commit_again_answers_the_first(world, repository):
    repository.write("a", b"1")
    repository.commit()
    request = push(world, repository)
    first = world.code().CreateCodeSnapshot(request)
    request.code_snapshot.description = "pushed again"
    assert world.code().CreateCodeSnapshot(request) == first
    assert [kind for kind, _ in world.events()].count("catalog.code-snapshot.created") == 1


def test_another_content_is_not_the_commit(world, repository):
    repository.write("a", b"1")
    repository.write("b", b"2")
    repository.commit()
    entries, _ = repository.entries()
    for broken in (
        entries[:1],
        [entries[0], manifest.Entry("b", manifest.EXECUTABLE, 1, entries[1].sha256)],
        [entries[0], manifest.Entry("b", manifest.FILE, 1, entries[0].sha256)],
        [entries[0], manifest.Entry("c", manifest.FILE, 1, entries[1].sha256)],
        [entries[0], manifest.Entry("b", manifest.SYMLINK, target="a")],
    ):
        answer = refused(world.code().CreateCodeSnapshot, push(world, repository, entries=broken))
        assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "GIT_ID_MISMATCH")
        assert answer.metadata["object"] == "tree"
        assert answer.metadata["given"] != answer.metadata["computed"]


def test_another_commit_object_is_not_the_commit(world, repository):
    repository.write("a", b"1")
    commit = repository.commit()
    forged = repository.commit_object().replace(b"a@example.org", b"b@example.org")
    answer = refused(world.code().CreateCodeSnapshot, push(world, repository, commit_object=forged))
    assert (answer.reason, answer.metadata["object"]) == ("GIT_ID_MISMATCH", "commit")
    assert answer.metadata["given"] == commit
    other = "0" * len(commit)
    answer = refused(world.code().CreateCodeSnapshot, push(world, repository, commit_id=other))
    assert (answer.reason, answer.metadata["computed"]) == ("GIT_ID_MISMATCH", commit)


def test_an_id_of_the_other_format_is_refused(world, repository):
    repository.write("a", b"1")
    repository.commit()
    request = push(world, repository)
    other = {"sha1": "sha256", "sha256": "sha1"}[repository.object_format]
    request.code_snapshot.object_format = FORMATS[other]
    answer = refused(world.code().CreateCodeSnapshot, request)
    assert (answer.reason, answer.fields) == ("COMMIT_OBJECT_INVALID", ["code_snapshot.commit_id"])


def test_what_is_no_commit_is_refused(world, repository):
    repository.write("a", b"1")
    repository.commit()
    tag = b"object " + b"0" * 40 + b"\ntype commit\n"
    fmt = code.ObjectFormat(repository.object_format)
    request = push(world, repository, commit_id=code.object_id(fmt, "commit", tag), commit_object=tag)
    answer = refused(world.code().CreateCodeSnapshot, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "COMMIT_OBJECT_INVALID")


def test_submodules_are_refused_by_path(world, repository, tmp_path):
    inner = Repository(tmp_path / "inner", repository.object_format).init()
    inner.write("x", b"1")
    inner.commit()
    repository.write("a", b"1")
    repository.git("submodule", "add", "-q", str(inner.path), "vendor/inner")
    repository.commit()
    answer = refused(world.code().CreateCodeSnapshot, push(world, repository))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "SUBMODULE_NOT_RESOLVED")
    assert answer.metadata["paths"] == "vendor/inner"


def test_a_gitlink_without_a_gitmodules_file_does_not_match(world, repository):
    repository.write("a", b"1")
    commit = repository.commit()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},linked")
    repository.git("commit", "-q", "-m", "gitlink")
    assert refused(world.code().CreateCodeSnapshot, push(world, repository)).reason == "GIT_ID_MISMATCH"


def test_lfs_pointers_are_refused_by_path(world, repository):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    repository.write("data/weights.bin", pointer)
    repository.commit()
    answer = refused(world.code().CreateCodeSnapshot, push(world, repository))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "LFS_POINTER")
    assert answer.metadata["path"] == "data/weights.bin"


def test_a_symlink_that_leaves_the_tree_is_refused(world, repository):
    (repository.path / "out").symlink_to("/etc/passwd")
    repository.commit()
    request = push(world, repository, entries=[])
    # The writer of manifests refuses it too, so it is written by hand.
    raw = b'{"entries":[{"kind":"symlink","path":"out","target":"/etc/passwd"}],"type":"animus.dev/manifest/v1"}'
    request.code_snapshot.manifest_digest = world.upload(raw)
    answer = refused(world.code().CreateCodeSnapshot, request)
    assert (answer.reason, answer.fields) == ("MANIFEST_INVALID", ["code_snapshot.manifest_digest"])


def test_content_must_be_the_projects(world, repository):
    repository.write("a", b"somebody else's code")
    repository.commit()
    request = push(world, repository)
    world.new_project("bob")
    request.parent = world.project
    answer = refused(world.code("bob").CreateCodeSnapshot, request)
    assert answer.reason == "BLOB_NOT_IN_PROJECT"


def test_too_many_verifications_at_once_are_told_to_come_back(world, tmp_path):
    from animus_catalog.blobs.git_check import GitVerifier
    from animus_catalog.domain.errors import VerifierBusy

    repository = Repository(tmp_path / "repository").init()
    commit = repository.commit()
    verifier = GitVerifier(None, workers=1, snapshots=1)
    with verifier._places, pytest.raises(VerifierBusy) as caught:
        verifier.verify(code.ObjectFormat.SHA1, commit, repository.commit_object(), [])
    assert caught.value.retry_after
    assert verifier.verify(code.ObjectFormat.SHA1, commit, repository.commit_object(), [])


def test_bad_requests_are_located(world):
    answer = refused(world.code().CreateCodeSnapshot, pb.CreateCodeSnapshotRequest(parent=world.project))
    assert (answer.code, sorted(filter(None, answer.fields))) == (
        "INVALID_ARGUMENT",
        ["code_snapshot", "commit_object"],
    )
    snapshot = pb.CodeSnapshot(object_format=FORMATS["sha1"], commit_id="zz", manifest_digest=digest_of(b""))
    request = pb.CreateCodeSnapshotRequest(parent=world.project, code_snapshot=snapshot, commit_object=b"x")
    assert refused(world.code().CreateCodeSnapshot, request).fields == ["code_snapshot.commit_id"]
    missing = pb.GetCodeSnapshotRequest(name=f"{world.project}/codeSnapshots/sha1-none")
    answer = refused(world.code().GetCodeSnapshot, missing)
    assert (answer.code, answer.reason) == ("NOT_FOUND", "CODE_SNAPSHOT_NOT_FOUND")


def test_snapshots_are_listed_by_commit(world, repository):
    repository.write("a", b"1")
    first = repository.commit()
    world.code().CreateCodeSnapshot(push(world, repository))
    repository.write("a", b"2")
    repository.commit()
    world.code().CreateCodeSnapshot(push(world, repository))
    caller = world.code()
    assert len(caller.ListCodeSnapshots(pb.ListCodeSnapshotsRequest(parent=world.project)).code_snapshots) == 2
    request = pb.ListCodeSnapshotsRequest(parent=world.project, commit_id=first)
    (found,) = caller.ListCodeSnapshots(request).code_snapshots
    assert found.commit_id == first


def test_nothing_is_pushed_into_an_archived_project(world, repository):
    repository.commit()
    request = push(world, repository)
    world.projects().ArchiveProject(project_pb2.ArchiveProjectRequest(name=world.project))
    assert refused(world.code().CreateCodeSnapshot, request).reason == "PROJECT_ARCHIVED"


# The rules alone.


def test_known_ids():
    """From `git hash-object` and the well-known empty tree."""
    sha1, sha256 = code.ObjectFormat.SHA1, code.ObjectFormat.SHA256
    assert code.object_id(sha1, "blob", b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert code.tree_id(sha1, [], {}) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    assert code.tree_id(sha256, [], {}) == "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"


def test_an_lfs_pointer_of_old_and_what_only_looks_like_one():
    old = b"version https://hawser.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert code.is_lfs_pointer(old)
    assert not code.is_lfs_pointer(b"# version https://git-lfs.github.com/spec/v1 is what pointers begin with\n")
    text = b"version https://git-lfs.github.com/spec/v1 explained\n" + b"x" * code.LFS_MAX_BYTES
    entry = Entry("doc.md", Kind.FILE, len(text), "sha256:x")
    assert code.entry_id(code.ObjectFormat.SHA1, entry, lambda _: [text])
