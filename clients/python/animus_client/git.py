"""A commit read from Git's own objects, never from the work tree: what is not committed does not exist.

Formats: gitformat-pack's object types, tree entries `<mode> <name>\\0<id>` (git-mktree(1), git-cat-file(1) --batch).
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from animus_client.errors import ClientError
from animus_kit.documents.manifest import EXECUTABLE, FILE, SYMLINK, Entry

_KINDS = {b"100644": FILE, b"100664": FILE, b"100755": EXECUTABLE, b"120000": SYMLINK}
_TREE = b"40000"
_GITLINK = b"160000"
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Snapshot:
    """One commit. contents: blob ids by SHA-256 hex, to be read with Repository.read."""

    object_format: str
    commit_id: str
    commit_object: bytes
    entries: list[Entry]
    contents: dict[str, str]
    url: str


class Repository:
    """Reads objects through one `git cat-file --batch`. Close it, or use it in a `with`."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        # Settings of the user must not change what is read.
        self._git = ["git", "-C", str(self._path), "--no-replace-objects"]
        self._format = self._run("rev-parse", "--show-object-format")
        self._batch = subprocess.Popen(
            [*self._git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._batch.stdin and self._batch.stdout
        self._batch.stdin.close()
        self._batch.wait()
        self._batch.stdout.close()

    def snapshot(self, revision: str = "HEAD") -> Snapshot:
        """Raises ClientError: NOT_A_REPOSITORY, REVISION_NOT_FOUND, SUBMODULE_NOT_RESOLVED, LFS_POINTER, MODE_UNKNOWN,
        NAME_NOT_UTF8."""
        try:
            commit_id = self._run("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        except ClientError as error:
            raise ClientError("REVISION_NOT_FOUND", f"{self._path}: no commit {revision!r}") from error
        commit = self.read(commit_id)
        tree = commit.split(b"\n", 1)[0].removeprefix(b"tree ").decode()
        entries: list[Entry] = []
        contents: dict[str, str] = {}
        for path, kind, object_id in self._walk(tree, ""):
            data = self.read(object_id)
            if kind == SYMLINK:
                entries.append(Entry(path, kind, target=_text(data, path)))
                continue
            if data.startswith(_LFS) and len(data) < 1024:
                raise ClientError("LFS_POINTER", f"{path} is a Git LFS pointer, not the file: commit the file itself")
            sha256 = hashlib.sha256(data).hexdigest()
            entries.append(Entry(path, kind, len(data), sha256))
            contents[sha256] = object_id
        return Snapshot(self._format, commit_id, commit, entries, contents, self._url())

    def read(self, object_id: str) -> bytes:
        """The content of one object. Not thread-safe."""
        assert self._batch.stdin and self._batch.stdout
        self._batch.stdin.write(object_id.encode() + b"\n")
        self._batch.stdin.flush()
        head = self._batch.stdout.readline().split()
        if len(head) != 3:
            raise ClientError("OBJECT_MISSING", f"{self._path}: object {object_id} is not there (a shallow clone?)")
        data = self._batch.stdout.read(int(head[2]))
        self._batch.stdout.read(1)
        return data

    def _walk(self, tree: str, prefix: str) -> Iterator[tuple[str, str, str]]:
        data = self.read(tree)
        length = 20 if self._format == "sha1" else 32
        position = 0
        while position < len(data):
            space, end = data.index(b" ", position), data.index(b"\0", position)
            mode, name = data[position:space], _text(data[space + 1 : end], prefix or "the root")
            object_id = data[end + 1 : end + 1 + length].hex()
            position = end + 1 + length
            path = prefix + name
            if mode == _TREE:
                yield from self._walk(object_id, path + "/")
            elif mode == _GITLINK:
                raise ClientError("SUBMODULE_NOT_RESOLVED", f"{path} is a submodule, whose files the commit lacks")
            elif mode in _KINDS:
                yield path, _KINDS[mode], object_id
            else:
                raise ClientError("MODE_UNKNOWN", f"{path} has the mode {mode.decode()}")

    def _url(self) -> str:
        done = subprocess.run([*self._git, "remote", "get-url", "origin"], capture_output=True, text=True)
        return _without_password(done.stdout.strip()) if done.returncode == 0 else ""

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run([*self._git, *arguments], capture_output=True, text=True)
        except FileNotFoundError:
            raise ClientError("GIT_MISSING", "git is not installed") from None
        if done.returncode != 0:
            told = done.stderr.strip().splitlines() or ["git failed"]
            raise ClientError("NOT_A_REPOSITORY", f"{self._path}: {told[-1]}")
        return done.stdout.strip()


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ClientError("NAME_NOT_UTF8", f"a name in {where} is not UTF-8") from None


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    credentials, at, host = rest.partition("@")
    return f"{scheme}://{host}" if at and "/" not in credentials else url
