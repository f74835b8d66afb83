"""Waiting for the signal that ends a process."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading


class Ending:
    """An event that signals set, and any thread.

    `threading.Event` does not do: its `wait` in the main thread sleeps on when the kernel hands the signal to another
    thread, and its `set` in a handler meets its own lock. Python's wake-up descriptor is written by whichever thread
    the signal finds.
    """

    def __init__(self) -> None:
        self._set = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._numbers: tuple[int, ...] = ()

    def on_signals(self, *numbers: int) -> None:
        """Ends on these. Only in the main thread."""
        self._numbers = numbers
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            # The descriptor gets the number; the handler is there to keep the default away.
            signal.signal(number, lambda *_: None)

    def set(self) -> None:
        """Ends, from any thread; not for signal handlers."""
        self._set.set()
        # A full buffer is as good as another byte.
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"\0")

    @property
    def is_set(self) -> bool:
        return self._set.is_set()

    def wait(self) -> None:
        """Returns when a signal came or `set` was called."""
        while not self._set.is_set():
            if self._reader.recv(1)[0] in (0, *self._numbers):
                self._set.set()
