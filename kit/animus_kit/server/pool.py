"""The workers of a sync listener."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Pool(ThreadPoolExecutor):
    """Knows how many calls it holds, at work and in the queue.

    gRPC's own limit counts health checks too, refuses those as well, and without a reason or a time to come back.
    """

    def __init__(self, workers: int):
        super().__init__(workers, thread_name_prefix="rpc")
        self.workers = workers
        self._held = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Beyond twice the workers a call is refused at once rather than queued until its deadline."""
        return self._held >= 2 * self.workers + 4

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._count(1)
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._count(-1)
            raise
        # Also of a call whose caller was gone before its turn came.
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def _count(self, change: int) -> None:
        with self._lock:
            self._held += change
