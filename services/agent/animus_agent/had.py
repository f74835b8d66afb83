"""Which attempts this node has had since it was booted: a second witness beside the spool.

The spool is a file that can be put back from a copy, and has then forgotten the attempts of since. This list lies in
the run folder, which no copy brings back and no reboot leaves; dispatch, the first witness, gives nothing out twice.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from animus_agent.files import write_atomic

# A doubled assignment comes within minutes of the first.
REMEMBERED = 10_000


class Had:
    """Safe for many threads. Ids are those of attempts' folders."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            lines = path.read_text().split()
        except FileNotFoundError:
            lines = []
        self._ids = OrderedDict.fromkeys(lines[-REMEMBERED:])

    def __contains__(self, id: str) -> bool:
        with self._lock:
            return id in self._ids

    def add(self, id: str) -> None:
        with self._lock:
            if id in self._ids:
                return
            self._ids[id] = None
            if len(self._ids) > 2 * REMEMBERED:
                self._ids = OrderedDict.fromkeys(list(self._ids)[-REMEMBERED:])
                write_atomic(self._path, "".join(f"{one}\n" for one in self._ids).encode(), durable=False)
                return
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, f"{id}\n".encode())
            finally:
                os.close(file)
