"""A channel that follows its certificate: a call made after the files changed goes over a connection with the new one.

gRPC's client credentials are what they were when the channel was made (its servers' are dynamic, see tls.py), so that a
process would call with a certificate that has expired for as long as it lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from animus_kit.log import get_logger
from animus_kit.tls import TlsFiles, check_pair

log = get_logger(__name__)

LOOK_SECONDS = 5.0
"""How long a new certificate may go unnoticed; rotations come a third of a lifetime early."""
RETIRE_SECONDS = 600.0
"""How long calls that began on the connection before may go on. A stream that is cut then is opened anew."""


class FollowingChannel(grpc.Channel):
    """dial: opens a channel with the files as they are now."""

    def __init__(self, files: TlsFiles, dial: Callable[[], grpc.Channel], clock: Callable[[], float] = time.monotonic):
        self._files = files
        self._dial = dial
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = files.stamp()
        self._channel = dial()
        self._look_at = clock() + LOOK_SECONDS
        self._retired: list[tuple[threading.Timer, grpc.Channel]] = []

    def current(self) -> grpc.Channel:
        """With the newest certificate that could be read."""
        if self._clock() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._follow()
                self._look_at = self._clock() + LOOK_SECONDS
            finally:
                self._lock.release()
        return self._channel

    def _follow(self) -> None:
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return
            chain, key, _ = self._files.read()
            check_pair(chain, key)
            made = self._dial()
        except (OSError, ValueError) as error:
            # A rotation in progress: the next call looks again.
            log.warning("certificate not reloaded", cert=str(self._files.cert), error=str(error))
            return
        old, self._channel, self._stamp = self._channel, made, stamp
        timer = threading.Timer(RETIRE_SECONDS, old.close)
        timer.daemon = True
        timer.start()
        self._retired = [(t, channel) for t, channel in self._retired if t.is_alive()] + [(timer, old)]
        log.info("dialled again with a new certificate", cert=str(self._files.cert))

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self, "unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self, "unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self, "stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self, "stream_stream", arguments, named)

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self.current().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self.current().unsubscribe(callback)

    def close(self) -> None:
        with self._lock:
            for timer, channel in self._retired:
                timer.cancel()
                channel.close()
            self._channel.close()

    def __enter__(self) -> FollowingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    """A stub's method, made anew on each channel."""

    def __init__(self, channel: FollowingChannel, kind: str, arguments: tuple[Any, ...], named: dict[str, Any]):
        self._channel = channel
        self._kind, self._arguments, self._named = kind, arguments, named
        self._made: tuple[grpc.Channel, Any] | None = None

    def _current(self) -> Any:
        channel, made = self._channel.current(), self._made
        if made is None or made[0] is not channel:
            made = self._made = channel, getattr(channel, self._kind)(*self._arguments, **self._named)
        return made[1]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._current()(*arguments, **named)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._current().with_call(*arguments, **named)

    def future(self, *arguments: Any, **named: Any) -> Any:
        return self._current().future(*arguments, **named)
