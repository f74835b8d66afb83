"""A place of its own for one chaos run: network, mounts and processes that end with it, whatever happens to it.

The run lives in three namespaces (network, mount, PID). When its first process ends, well or by SIGKILL, the kernel
ends every process in it, drops every mount (and with it every loop device) and every interface. What no namespace
holds, the folder and the cgroups, is removed from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from animus_cli.requirements import missing as missing_for_steps
from tests.chaos import netns

CGROUPS = Path("/sys/fs/cgroup")
YOUNG_SECONDS = 60.0
INTERRUPTED_SECONDS = 75.0
FOLDERS, PREFIX = Path("/var/tmp"), "animus-chaos-"
_PR_SET_PDEATHSIG = 1


def missing() -> list[str]:
    """What this machine lacks for a chaos run, a line each."""
    lacking = list(missing_for_steps())
    if os.geteuid() != 0:
        return [*lacking, "missing: root, to make namespaces"]
    for program, package in (
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
    ):
        if shutil.which(program) is None:
            lacking.append(f"missing: {program} (apt-get install {package})")
    if lacking:
        return lacking
    return [f"missing: {why}" for why in (_refused("--net", "--mount", "--pid"), netns.refused()) if why]


def _refused(*namespaces: str) -> str:
    done = subprocess.run(["unshare", *namespaces, "--fork", "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"namespaces ({done.stderr.strip()})"


def folder() -> Path:
    """A new folder that services, under their own account, and containers may pass through. Removes what a run left
    that was itself killed: the kernel has ended all of it but folder and cgroups."""
    for old in FOLDERS.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            # A younger one may be of somebody who has not come to hold it.
            if time.time() - old.stat().st_ctime > YOUNG_SECONDS:
                with _held(old):
                    clean(old)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDERS))
    made.chmod(0o711)
    return made


@contextlib.contextmanager
def _held(root: Path) -> Iterator[None]:
    """As long as a run goes on. Raises BlockingIOError when another process holds it."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def run(module: str, arguments: Sequence[str], root: Path, seconds: float) -> int:
    """Runs `python -m module arguments` inside and returns its exit status; 124 when it had to be ended.

    `root` is the run's folder. Nothing of the run is left afterwards, `root` included.
    """
    command = [
        "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
        sys.executable, "-m", "tests.chaos.enclosure", module, *arguments,
    ]  # fmt: skip
    with _held(root):
        return _watch(command, root, seconds)


def _watch(command: Sequence[str], root: Path, seconds: float) -> int:
    # Should we be killed, the run must not go on without anybody who cleans up.
    inside = subprocess.Popen(command, preexec_fn=_die_with_parent)
    try:
        return inside.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"chaos: not done after {seconds:.0f} s; ended", file=sys.stderr)
        return 124
    except KeyboardInterrupt:
        # The run got it too, and tells what it knows.
        print("chaos: ending in good order; once more ends it at once", file=sys.stderr)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            inside.wait(INTERRUPTED_SECONDS)
        return 130
    finally:
        inside.kill()
        inside.wait()
        clean(root)


def clean(root: Path) -> None:
    """Removes what outlives the namespaces: groups of the run's agents, and the folder."""
    for state in root.glob("nodes/*/state"):
        _remove_groups(group_name(state))
    shutil.rmtree(root, ignore_errors=True)


def group_name(state: Path) -> str:
    """The agent's own group, as animus_agent.node names it."""
    return hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]


def groups(name: str) -> list[Path]:
    """The cgroups under which an agent's containers get theirs, in each hierarchy (v1), or the one (v2)."""
    found = [*CGROUPS.glob(f"*/animus/{name}")]
    if (CGROUPS / "cgroup.controllers").exists():
        found += CGROUPS.rglob(f"animus-{name}")
    return [path for path in found if path.is_dir()]


def _remove_groups(name: str) -> None:
    """Deepest first. The kernel may need a moment to let go of processes it has just killed."""
    deadline = time.monotonic() + 5
    while True:
        left = groups(name)
        for top in left:
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        if not left or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def first_process(arguments: Sequence[str]) -> int:
    """PID 1 of the run: starts the run itself, and asks for the ends of all that lose their parents, as init does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _own_run_folder()
    module, *rest = arguments
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-m", module, *rest])
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


def _own_run_folder() -> None:
    """Sockets, runtime state and names of network namespaces go to a /run that ends with us."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)


if __name__ == "__main__":
    sys.exit(first_process(sys.argv[1:]))
