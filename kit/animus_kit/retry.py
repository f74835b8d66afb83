"""Retry of what is safe to repeat, and only when the failure says that it passed by.

Every mutation carries a request_id or a natural key, so a repeat after UNAVAILABLE cannot take effect twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

T = TypeVar("T")

TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later without anything changing."""
    return isinstance(error, grpc.RpcError) and error.code() in TRANSIENT  # type: ignore[attr-defined]


def backoff(first: float = 0.1, most: float = 5.0, factor: float = 2.0) -> Iterator[float]:
    """Seconds to wait before each further try, for ever: doubling, with full jitter so that a herd spreads out."""
    limit = first
    while True:
        yield random.uniform(first / 2, limit)
        limit = min(limit * factor, most)


class Backoff:
    """The same waits for a loop that starts over after a success."""

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first, self._most = first, most
        self.reset()

    def next(self) -> float:
        """Seconds to wait before the next try."""
        return next(self._delays)

    def reset(self) -> None:
        self._delays = backoff(self._first, self._most)


def call(action: Callable[[], T], *, tries: int, wait: Callable[[float], None], first: float = 0.1) -> T:
    """Calls action until it succeeds, at most tries times. Raises the last error; anything not transient at once."""
    delays = backoff(first)
    for left in range(tries - 1, -1, -1):
        try:
            return action()
        except grpc.RpcError as error:
            if left == 0 or not is_transient(error):
                raise
            wait(next(delays))
    raise AssertionError("tries must be at least 1")
