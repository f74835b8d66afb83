"""What agents leave behind that do not come back: a stack whose folder was deleted while it ran, say.

Every agent notes in its run folder whose it is. One whose state folder is gone has nobody left to adopt its containers:
the next agent that starts beside it ends them, and removes the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from animus_agent.errors import AgentError
from animus_agent.sandbox import cgroup, quota
from animus_agent.sandbox.runc import RuncDriver
from animus_kit.log import get_logger

log = get_logger(__name__)

OWNER = "owner"
PREFIX = "animus-agent"


def group_name(state_dir: Path) -> str:
    """An agent's name among the machine's cgroups, by its state folder: two agents on one machine have two."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]


def note(run_dir: Path, state_dir: Path) -> None:
    (run_dir / OWNER).write_text(str(state_dir.resolve()))


def sweep(run_dir: Path) -> list[str]:
    """Ends what agents beside this one left whose state folder is gone; the names of their folders."""
    swept = []
    for other in sorted(run_dir.resolve().parent.glob(f"{PREFIX}*")):
        if other == run_dir.resolve() or not other.is_dir():
            continue
        try:
            owner = Path((other / OWNER).read_text())
        except OSError:
            # Nobody's that we know of.
            continue
        if not owner.is_absolute() or owner.exists():
            continue
        try:
            _end(other, owner)
            swept.append(other.name)
            log.warning("removed what an agent left that is gone", folder=str(other), state=str(owner))
        except (AgentError, OSError) as error:
            log.error("what an agent left cannot be removed", folder=str(other), error_text=str(error))
    return swept


def _end(run: Path, state_dir: Path) -> None:
    driver = RuncDriver(run / "runc", cgroup.detect("", group_name(state_dir)))
    for container in driver.ids():
        driver.remove(container)
    driver.close()
    for mount in (*_mounts_below(state_dir), *_mounts_below(run)):
        quota.unmount(mount)
    if not _mounts_below(run):
        # Only now: while its state was bound here, removing the tree would have been removing that.
        shutil.rmtree(run)


def remove(run_dir: Path) -> None:
    """The run folder of an agent that was purged. Never a removal of a tree: should an unmount have failed, this folder
    is the agent's state."""
    for file in ("had", OWNER):
        (run_dir / file).unlink(missing_ok=True)
    for folder in ("runc", "state", "."):
        with contextlib.suppress(OSError):
            (run_dir.resolve() / folder).resolve().rmdir()


def _mounts_below(folder: Path) -> list[Path]:
    """Innermost first; of a folder that was deleted the kernel adds so to the name."""
    wanted = str(folder)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = line.split(" ", 5)[4].removesuffix("//deleted")
            if point == wanted or point.startswith(wanted + "/"):
                found.append(Path(point))
    return sorted(found, reverse=True)
