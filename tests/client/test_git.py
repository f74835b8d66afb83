"""Commits of real repositories, read from Git's objects."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from animus_client.errors import ClientError
from animus_client.git import Repository, _without_password
from animus_kit.documents import manifest


class Repo:
    def __init__(self, path: Path, *options: str):
        self.path = path
        path.mkdir()
        self.git("init", "-q", *options)

    def git(self, *arguments: str) -> str:
        who = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **who}
        ).stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            (self.path / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name.replace("__", "/")).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def snapshot(self, revision: str = "HEAD"):
        with Repository(self.path) as found:
            return found.snapshot(revision)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


def test_what_is_committed_and_nothing_else(repo: Repo) -> None:
    commit = repo.commit(a="one", folder__b="two")
    (repo.path / "a").write_text("changed, not committed")
    (repo.path / "c").write_text("untracked")
    found = repo.snapshot()
    assert (found.commit_id, found.object_format) == (commit, "sha1")
    assert [(e.path, e.kind, e.size) for e in sorted(found.entries, key=manifest.sort_key)] == [
        ("a", "file", 3),
        ("folder/b", "file", 3),
    ]
    assert found.commit_object.startswith(b"tree ")
    with Repository(repo.path) as git:
        assert {git.read(object_id) for object_id in found.contents.values()} == {b"one", b"two"}


def test_modes_and_links(repo: Repo) -> None:
    (repo.path / "run").write_text("#!/bin/sh")
    (repo.path / "run").chmod(0o755)
    (repo.path / "link").symlink_to("run")
    repo.commit()
    found = {e.path: e for e in repo.snapshot().entries}
    assert found["run"].kind == manifest.EXECUTABLE
    assert (found["link"].kind, found["link"].target) == (manifest.SYMLINK, "run")
    manifest.dumps(found.values(), manifest.CODE)


def test_sha256_repositories(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo", "--object-format=sha256")
    commit = repo.commit(a="one", d__e="two")
    found = repo.snapshot()
    assert found.object_format == "sha256" and found.commit_id == commit and len(commit) == 64
    assert len(found.entries) == 2


def test_older_commits_and_names(repo: Repo) -> None:
    first = repo.commit(a="one")
    repo.git("tag", "v1")
    repo.commit(a="two")
    assert repo.snapshot("v1").commit_id == repo.snapshot(first).commit_id == first


def test_a_submodule_is_refused(repo: Repo) -> None:
    commit = repo.commit(a="one")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    repo.git("commit", "-q", "-m", "sub")
    with pytest.raises(ClientError) as caught:
        repo.snapshot()
    assert caught.value.reason == "SUBMODULE_NOT_RESOLVED" and "sub" in caught.value.message


def test_a_large_file_pointer_is_refused(repo: Repo) -> None:
    repo.commit(big="version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ClientError) as caught:
        repo.snapshot()
    assert caught.value.reason == "LFS_POINTER"


def test_replacements_do_not_count(repo: Repo) -> None:
    first = repo.commit(a="one")
    second = repo.commit(a="two")
    repo.git("replace", first, second)
    assert repo.snapshot(first).commit_object != repo.snapshot(second).commit_object


@pytest.mark.parametrize("revision", ["nowhere", "--all", "HEAD:a"])
def test_what_is_no_commit_is_refused(repo: Repo, revision: str) -> None:
    repo.commit(a="one")
    with pytest.raises(ClientError) as caught:
        repo.snapshot(revision)
    assert caught.value.reason == "REVISION_NOT_FOUND"


def test_a_folder_without_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        Repository(tmp_path)
    assert caught.value.reason == "NOT_A_REPOSITORY"


def test_a_url_keeps_no_password() -> None:
    assert _without_password("https://ann:secret@host/repo.git") == "https://host/repo.git"
    assert _without_password("https://host/a@b") == "https://host/a@b"
    assert _without_password("git@host:repo.git") == "git@host:repo.git"
