"""When to try again: transient errors only, with jitter, never beyond the caller's deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from animus_kit.clock import Clock, SystemClock
from animus_kit.errors import AppError
from animus_kit.status import from_rpc_error

T = TypeVar("T")

TRANSIENT = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"})
"""ABORTED is here for compare-and-set inside one server; a client that must read again first takes it out."""


class Backoff:
    """Growing waits, in seconds, each drawn from the upper half of its step so that a crowd spreads out."""

    def __init__(self, first: float = 0.1, most: float = 10.0, factor: float = 2.0, seed: random.Random | None = None):
        self._first, self._most, self._factor = first, most, factor
        self._step = first
        self._random = seed or random.Random()

    def next(self) -> float:
        step, self._step = self._step, min(self._step * self._factor, self._most)
        return step * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._step = self._first


def retrying(
    call: Callable[[], T],
    *,
    attempts: int = 4,
    deadline: float | None = None,
    codes: frozenset[str] = TRANSIENT,
    clock: Clock | None = None,
    sleep: Callable[[float], object] = time.sleep,
    backoff: Backoff | None = None,
) -> T:
    """Calls until it succeeds. Raises AppError: the last one, when attempts or the deadline (on clock.monotonic()) are
    used up or the error is not transient. Mutations need a request_id that was made before the first try.

    A server's RetryInfo is obeyed as the least wait.
    """
    clock = clock or SystemClock()
    backoff = backoff or Backoff()
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except grpc.RpcError as e:
            error: AppError = from_rpc_error(e)
            cause: BaseException = e
        except AppError as e:
            error = cause = e
        wait = max(backoff.next(), error.retry_after or 0.0)
        late = deadline is not None and clock.monotonic() + wait >= deadline
        if error.code not in codes or attempt == attempts or late:
            raise error from (cause if cause is not error else None)
        sleep(wait)
    raise AssertionError("attempts must be at least 1")
