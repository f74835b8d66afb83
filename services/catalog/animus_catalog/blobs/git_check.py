"""Recomputing a commit's tree out of stored content, on a few threads of its own.

Whoever pushes a large tree must not hold the workers that answer everybody else's small calls: a bounded number of
snapshots is verified at a time, and the next is told to come back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from animus_catalog.blobs.store import BlobStore
from animus_catalog.domain import code
from animus_catalog.domain.code import ObjectFormat
from animus_catalog.domain.contents import Entry, Kind
from animus_catalog.domain.errors import VerifierBusy

_GITMODULES = ".gitmodules"
_GITMODULES_MAX = 1 << 20
_BATCH = 256


class GitVerifier:
    """workers: threads that hash. snapshots: how many may be verified at a time."""

    def __init__(self, blobs: BlobStore, workers: int, snapshots: int):
        self._blobs = blobs
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="git")
        self._places = threading.BoundedSemaphore(snapshots)

    def verify(self, fmt: ObjectFormat, commit_id: str, commit: bytes, entries: Sequence[Entry]) -> str:
        """Returns the tree id, when commit object, commit id and content belong together.

        Raises CommitObjectInvalid, GitIdMismatch, SubmoduleNotResolved, LfsPointer, VerifierBusy.
        """
        tree = code.tree_of_commit(fmt, commit_id, commit)
        if not self._places.acquire(blocking=False):
            raise VerifierBusy
        try:
            code.require_tree(tree, code.tree_id(fmt, entries, self._ids(fmt, entries)), self._gitmodules(entries))
        finally:
            self._places.release()
        return tree

    def _ids(self, fmt: ObjectFormat, entries: Sequence[Entry]) -> dict[str, str]:
        # In batches: most files of a repository are small, and a task for each would cost more than its hash.
        batches = [entries[start : start + _BATCH] for start in range(0, len(entries), _BATCH)]
        tasks = [self._executor.submit(self._hash, fmt, batch) for batch in batches]
        try:
            return {path: id for task in tasks for path, id in task.result().items()}
        finally:
            for task in tasks:
                task.cancel()

    def _hash(self, fmt: ObjectFormat, batch: Sequence[Entry]) -> dict[str, str]:
        return {
            entry.path: code.entry_id(fmt, entry, lambda digest, size=entry.size: self._blobs.read(digest, size))
            for entry in batch
        }

    def _gitmodules(self, entries: Sequence[Entry]) -> bytes | None:
        for entry in entries:
            if entry.path == _GITMODULES and entry.kind is not Kind.SYMLINK and entry.size <= _GITMODULES_MAX:
                return b"".join(self._blobs.read(entry.digest, entry.size))
        return None
