"""Code snapshots, and the Git object ids that prove them.

Git's formats: an object's id is the hash of "<kind> <size>\\0" and its content; a tree's content is, sorted, a row
"<mode> <name>\\0<raw id>" per entry (Documentation/gitformat-*, "Git Internals - Git Objects"). Of a sha256 repository
only the hash differs (gitformat: hash-function-transition).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from animus_catalog.domain.contents import Entry, Kind
from animus_catalog.domain.errors import CommitObjectInvalid, GitIdMismatch, LfsPointer, SubmoduleNotResolved

LFS_MAX_BYTES = 1024
"""A pointer file is always smaller (git-lfs, docs/spec.md)."""
_LFS_SPEC = b"version https://git-lfs.github.com/spec/"
_LFS_OLD_SPEC = b"version https://hawser.github.com/spec/"

_MODES = {Kind.FILE: b"100644", Kind.EXECUTABLE: b"100755", Kind.SYMLINK: b"120000"}


class ObjectFormat(StrEnum):
    """The values are Git's own names and those of hashlib."""

    SHA1 = "sha1"
    SHA256 = "sha256"

    @property
    def hex_length(self) -> int:
        return 40 if self is ObjectFormat.SHA1 else 64


@dataclass(frozen=True, slots=True)
class CodeSnapshot:
    project: str
    object_format: ObjectFormat
    commit_id: str
    tree_id: str
    manifest_digest: str
    file_count: int
    size: int
    repository_url: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)
    creator: str = ""
    create_time: datetime | None = None

    @property
    def id(self) -> str:
        return f"{self.object_format}-{self.commit_id[:40]}"

    @property
    def name(self) -> str:
        return f"projects/{self.project}/codeSnapshots/{self.id}"


def object_id(fmt: ObjectFormat, kind: str, content: bytes) -> str:
    return blob_like_id(fmt, kind, len(content), [content])


def blob_like_id(fmt: ObjectFormat, kind: str, size: int, chunks: Iterable[bytes]) -> str:
    """The id of an object whose content comes in pieces."""
    # Git's ids are names here, checked against what the caller says; integrity rests on the manifest's SHA-256.
    digest = hashlib.new(fmt.value, usedforsecurity=False)
    digest.update(f"{kind} {size}\0".encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def tree_of_commit(fmt: ObjectFormat, commit_id: str, commit: bytes) -> str:
    """Returns the tree id that the raw commit object names, after checking that the object has the commit's id.

    Raises CommitObjectInvalid, GitIdMismatch.
    """
    if len(commit_id) != fmt.hex_length:
        raise CommitObjectInvalid(f"an id of {fmt} has {fmt.hex_length} hex digits", "code_snapshot.commit_id")
    computed = object_id(fmt, "commit", commit)
    if computed != commit_id:
        raise GitIdMismatch("commit", commit_id, computed)
    key, _, tree = commit.partition(b"\n")[0].partition(b" ")
    if key != b"tree" or len(tree) != fmt.hex_length or any(c not in b"0123456789abcdef" for c in tree):
        raise CommitObjectInvalid("the commit object does not begin with its tree")
    return tree.decode()


def is_lfs_pointer(head: bytes) -> bool:
    return head.startswith((_LFS_SPEC, _LFS_OLD_SPEC))


def entry_id(fmt: ObjectFormat, entry: Entry, read: Callable[[str], Iterable[bytes]]) -> str:
    """The Git blob id of one entry; `read` gives a blob's content by digest. Raises LfsPointer."""
    if entry.kind is Kind.SYMLINK:
        return object_id(fmt, "blob", entry.target.encode())
    if entry.size < LFS_MAX_BYTES:
        content = b"".join(read(entry.digest))
        if is_lfs_pointer(content):
            raise LfsPointer(entry.path)
        return object_id(fmt, "blob", content)
    return blob_like_id(fmt, "blob", entry.size, read(entry.digest))


def tree_id(fmt: ObjectFormat, entries: Sequence[Entry], ids: Mapping[str, str]) -> str:
    """The id of the tree that holds the entries; `ids` maps each path to its blob id."""
    root: dict[bytes, dict | tuple[bytes, str]] = {}
    for entry in entries:
        *folders, name = entry.path.encode().split(b"/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = (_MODES[entry.kind], ids[entry.path])
    return _tree_id(fmt, root)


def _tree_id(fmt: ObjectFormat, node: Mapping[bytes, dict | tuple[bytes, str]]) -> str:
    rows = []
    for name, child in node.items():
        if isinstance(child, dict):
            # Git sorts a folder as if its name ended in "/".
            rows.append((name + b"/", b"40000", name, _tree_id(fmt, child)))
        else:
            rows.append((name, child[0], name, child[1]))
    content = b"".join(b"%s %s\0%s" % (mode, name, bytes.fromhex(oid)) for _, mode, name, oid in sorted(rows))
    return object_id(fmt, "tree", content)


def require_tree(given: str, computed: str, gitmodules: bytes | None) -> None:
    """Raises when the content is not the commit's tree.

    A manifest cannot hold a gitlink, so a commit with submodules never matches; `.gitmodules` then tells which
    (SubmoduleNotResolved). Raises GitIdMismatch otherwise.
    """
    if computed == given:
        return
    paths = submodule_paths(gitmodules) if gitmodules is not None else []
    if paths:
        raise SubmoduleNotResolved(paths, given, computed)
    raise GitIdMismatch("tree", given, computed)


def submodule_paths(gitmodules: bytes) -> list[str]:
    """The paths that a .gitmodules file declares, at most 20: enough for a message."""
    paths = []
    for line in gitmodules.decode(errors="replace").splitlines():
        key, found, value = line.partition("=")
        if found and key.strip() == "path" and value.strip():
            paths.append("".join(c for c in value.strip()[:256] if c.isprintable()))
    return paths[:20]
