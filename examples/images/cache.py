"""Where built images and downloads are kept between runs. Deleting it costs time and nothing else."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "animus" / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(files: Iterable[Path], *more: str) -> str:
    """A name for what is built from these files and these values."""
    state = hashlib.sha256()
    for part in (*(path.read_bytes() for path in sorted(files)), *(value.encode() for value in more)):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()[:24]


def built(name: str, build: Callable[[Path], None], *, rebuild: bool = False) -> Path:
    """The folder `name`, made by `build` unless it is there; whole or not at all, also when two ask at once."""
    target = folder() / name
    with _locked(folder() / f"{name}.lock"):
        if rebuild and target.exists():
            shutil.rmtree(target)
        if not target.exists():
            scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=folder()))
            try:
                build(scratch / "it")
                (scratch / "it").rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
