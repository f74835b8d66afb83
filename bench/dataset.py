"""Hashing and storing a dataset through the gateway, beside sha256 of the same bytes.

    .venv/bin/python -m bench.dataset [mebibytes]

`Datasets.push` hashes the files, uploads them over TLS through Envoy to the catalog, which hashes them again while it
writes, and creates the version. The floor is what no implementation can leave out: one sha256 over each file.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from bench.local import client, create_project, folder, local_stack
from bench.report import Line, emit

NAME = "dataset"
FILES = 8
BUDGET = 0.6
SMALL_FILES = 1000
SMALL_BYTES = 4096


def main(mebibytes: int) -> None:
    with local_stack(agent=False) as layout, folder() as root, client(layout) as who:
        project = create_project(who, "bench")
        for what, count, size in ((f"{FILES} files, {mebibytes} MiB", FILES, (mebibytes << 20) // FILES),
                                  (f"{SMALL_FILES} files of 4 KiB", SMALL_FILES, SMALL_BYTES)):  # fmt: skip
            data = make(root / str(count), count, size)
            floor = hash_rate(data)
            begin = time.perf_counter()
            who.datasets.push(f"{project}/datasets/d{count}", data)
            rate = count * size / 1e6 / (time.perf_counter() - begin)
            line = Line(
                f"push a dataset of {what}", "MB/s", floor, rate, "sha256 of the files", f"≥ {BUDGET:.0%}",
                rate >= BUDGET * floor, {"files_per_s": round(rate * 1e6 / size, 1)},
            )  # fmt: skip
            emit(NAME, line)


def make(path: Path, count: int, size: int) -> Path:
    """Random bytes: nothing compresses or repeats."""
    path.mkdir()
    for number in range(count):
        (path / f"{number:06}.bin").write_bytes(os.urandom(size))
    return path


def hash_rate(path: Path) -> float:
    """MB a second, on one core, from the page cache."""
    begin, total = time.perf_counter(), 0
    for file in sorted(path.iterdir()):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
        total += file.stat().st_size
    return total / 1e6 / (time.perf_counter() - begin)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
