"""The disk of the state folder: whether it is full, and what the caches give back then."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from animus_kit.log import get_logger

log = get_logger(__name__)

MIN_FREE_BYTES = 64 << 20
MIN_FREE_FILES = 1000
# What is made free at once, so that the next input does not fill it again.
WANTED_FREE_BYTES = 1 << 30
WANTED_FREE_FILES = 20_000


class Cache(Protocol):
    def evict(self, most: int | None = None, enough: Callable[[], bool] = lambda: False) -> object: ...


class Disk:
    """`caches` are asked in their order for what nobody holds. `changed` is called when that has made room."""

    def __init__(self, folder: Path, caches: Sequence[Cache], changed: Callable[[], None]) -> None:
        self._folder, self._caches, self._changed = folder, caches, changed
        self._evicting = threading.Lock()
        self._told = False

    def is_full(self) -> bool:
        """Room for what the attempts that are here have to tell, rather than for more of them. Waits for no eviction: a
        full disk takes no attempt, and without one nothing else would evict."""
        full = not self._has(MIN_FREE_BYTES, MIN_FREE_FILES)
        if full and not self._told:
            log.error("the disk of the state folder is full; no work is taken", folder=str(self._folder))
        self._told = full
        if full and self._evicting.acquire(blocking=False):
            threading.Thread(target=self._evict, name="evict", daemon=True).start()
        return full

    def _evict(self) -> None:
        try:
            for cache in self._caches:
                cache.evict(0, lambda: self._has(WANTED_FREE_BYTES, WANTED_FREE_FILES))
            made = self._has(MIN_FREE_BYTES, MIN_FREE_FILES)
        except Exception:
            log.exception("a full disk could not be given room")
            made = False
        finally:
            self._evicting.release()
        if made:
            log.info("the caches gave room to a full disk", folder=str(self._folder))
            self._changed()

    def _has(self, free_bytes: int, free_files: int) -> bool:
        state = os.statvfs(self._folder)
        # Some file systems count no inodes.
        return state.f_bavail * state.f_frsize >= free_bytes and (state.f_files == 0 or state.f_favail >= free_files)
