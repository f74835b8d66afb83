"""The reference driver: runc, with one conmon for each container.

conmon is the container's parent, keeps its log and writes its exit code, so that a container outlives the agent. What
is true about a container is asked of conmon (a pidfd that fires at its end), of its exit file and of runc; nothing is
believed because a pid was once written down.

Files under `spec.directory`: `bundle/config.json`, `log`, `exits/<id>`, `conmon.pid`, `pid`, `starting`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal as signals
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from animus_agent.egress import namespace
from animus_agent.errors import CommandNotRunnable, SandboxUnavailable, StartFailed
from animus_agent.files import boot_id, write_atomic
from animus_agent.sandbox import oci, processes, seccomp
from animus_agent.sandbox.cgroup import Cgroups
from animus_agent.sandbox.driver import Collected, Handle, Phase, SandboxSpec, Usage

CREATE_TIMEOUT_SECONDS = 60.0
KILL_TIMEOUT_SECONDS = 10.0
KILL_AGAIN_SECONDS = 0.02
RELEASE_MILLISECONDS = 2000
# What runc says of a command that the image does not have, or that is no program.
_NOT_RUNNABLE = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
    "not a directory",
    "is a directory",
    "too many levels of symbolic links",
)


class RuncDriver:
    """`state` is runc's own folder; it lies on a tmpfs, so that a reboot empties it like the containers."""

    name = "runc"

    def __init__(self, state: Path, cgroups: Cgroups, *, runc: str = "", conmon: str = "", setarch: str = "") -> None:
        self._runc = runc or processes.program("runc")
        self._conmon = conmon or processes.program("conmon")
        self._setarch = setarch or shutil.which("setarch") or ""
        self._makers = {os.path.basename(program).encode() for program in (self._runc, self._conmon)}
        self._state = state
        self._cgroups = cgroups
        self._seccomp = seccomp.load()
        self._boot = boot_id()
        self._versions: dict[str, str] = {}
        state.mkdir(parents=True, exist_ok=True, mode=0o711)

    def prepare(self, spec: SandboxSpec) -> Handle:
        bundle = spec.directory / "bundle"
        for folder in (bundle, spec.directory / "exits", spec.directory / "persist"):
            folder.mkdir(parents=True, exist_ok=True)
        if not spec.aslr and not self._setarch:
            raise SandboxUnavailable("setarch is not installed, so ASLR cannot be turned off", "ASLR_OFF_UNAVAILABLE")
        config = oci.config(spec, self._cgroups, self._seccomp)
        write_atomic(bundle / "config.json", json.dumps(config).encode(), durable=False)
        data = {
            "backstop": str(spec.backstop_seconds),
            "aslr": "on" if spec.aslr else "off",
            "log_bytes": str(spec.log_bytes),
        }
        return Handle(self.name, spec.id, str(spec.directory), self._boot, data)

    def start(self, handle: Handle, created: Callable[[], None] | None = None) -> None:
        directory = Path(handle.directory)
        # Before anything is created: if this process dies now, no other will create a second container.
        try:
            os.close(os.open(directory / "starting", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            raise StartFailed("this container was started before", "CONTAINER_STARTED_BEFORE") from None
        self._create(handle)
        if created is not None:
            created()
        self.resume_start(handle)

    def resume_start(self, handle: Handle) -> None:
        self._bound_log(handle)
        if not self._release(handle.id):
            self._run("start", handle.id)

    def _bound_log(self, handle: Handle) -> None:
        """The kernel's bound on what conmon may write into the log: however fast a step writes, and whoever is not there
        to watch it, the disk of the state folder takes no more. Before the step's first instruction."""
        bound = int(handle.data.get("log_bytes", "0"))
        if bound:
            with suppress(OSError, ValueError):
                pid = int((Path(handle.directory) / "conmon.pid").read_text())
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))

    def _release(self, container: str) -> bool:
        """Does what `runc start` does, without the 10 ms of another process: the container's first process waits to
        write one byte into `exec.fifo`; it is read, and the FIFO removed (runc libcontainer, Container.exec).

        False when it does not answer in time: then `runc start` is asked, and says what is wrong.
        """
        path = self._state / container / "exec.fifo"
        try:
            fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            poll = select.poll()
            poll.register(fifo, select.POLLIN)
            if not poll.poll(RELEASE_MILLISECONDS) or os.read(fifo, 1) != b"0":
                return False
        finally:
            os.close(fifo)
        path.unlink(missing_ok=True)
        return True

    def conmon_command(self, handle: Handle) -> list[str]:
        """The command that `start` runs; bench/sandbox_floor.py runs the same."""
        directory = Path(handle.directory)
        command = [
            self._conmon, "--api-version", "1", "-c", handle.id, "-u", handle.id, "-n", handle.id,
            "-r", self._runc, "--runtime-arg", f"--root={self._state}", "-b", str(directory / "bundle"),
            "-p", str(directory / "pid"), "-P", str(directory / "conmon.pid"),
            # No size limit here: conmon would cut the file in place and lose lines silently (see _bound_log).
            "-l", f"k8s-file:{directory / 'log'}", "--no-sync-log",
            "--exit-dir", str(directory / "exits"), "-0", str(directory / "persist"),
            "--full-attach", "--socket-dir-path", str(directory), "--log-level", "error",
        ]  # fmt: skip
        if int(handle.data["backstop"]):
            command += ["-T", handle.data["backstop"]]
        if handle.data["aslr"] == "off":
            # runc 1.1 cannot set a personality; it is inherited, and the call list forbids to set it inside.
            command = [self._setarch, "-R", *command]
        return command

    def _create(self, handle: Handle) -> None:
        read_end, write_end = os.pipe()
        try:
            environment = {"_OCI_SYNCPIPE": str(write_end), "PATH": os.environ.get("PATH", os.defpath)}
            process = subprocess.Popen(
                self.conmon_command(handle),
                env=environment,
                # conmon leaves a file `oom` in its working folder.
                cwd=handle.directory,
                pass_fds=[write_end],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Signals to the agent's terminal or group are not for containers.
                start_new_session=True,
                # SIGXFSZ stays ignored, as Python has it: conmon outlives its log's bound (_bound_log). runc sets the
                # signals of the step itself to what they are by default.
                restore_signals=False,
            )
        finally:
            os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe, process:
            answer = processes.read_line(pipe.fileno(), CREATE_TIMEOUT_SECONDS)
            error = process.communicate(timeout=CREATE_TIMEOUT_SECONDS)[1] if not answer else b""
        if not answer:
            raise StartFailed(f"conmon gave no answer: {error.decode(errors='replace').strip()[:1000]}")
        report = json.loads(answer)
        if report.get("data", -1) < 0:
            self._await_conmon(handle)
            message = str(report.get("message", "")).strip()[:2000]
            runnable = not ("exec:" in message and any(text in message for text in _NOT_RUNNABLE))
            raise StartFailed(message) if runnable else CommandNotRunnable(message)

    def status(self, handle: Handle, wait_seconds: float = 0.0) -> Phase:
        directory = Path(handle.directory)
        if not (directory / "starting").exists():
            return Phase.PREPARED
        pidfd = self._conmon_pidfd(handle)
        if pidfd is not None:
            try:
                ended = processes.ended(pidfd, wait_seconds)
            finally:
                os.close(pidfd)
            if not ended:
                return Phase.RUNNING
        if self._exit_file(handle).exists():
            return Phase.EXITED
        # conmon is gone and wrote no exit code: nobody knows how the container ends, so it must not go on.
        return Phase.LOST

    def recover(self, handle: Handle) -> Phase:
        if handle.boot_id != self._boot:
            started = (Path(handle.directory) / "starting").exists()
            return (Phase.EXITED if self._exit_file(handle).exists() else Phase.LOST) if started else Phase.PREPARED
        self._await_creation(handle)
        phase = self.status(handle)
        if phase is Phase.RUNNING and self._waits_to_start(handle):
            return Phase.STARTING
        return phase

    def _await_creation(self, handle: Handle) -> None:
        """The process before us may have died while conmon was creating the container: then conmon goes on with it,
        and what comes of it is not known before it is done."""
        directory = Path(handle.directory)
        if not (directory / "starting").exists():
            return
        deadline = time.monotonic() + CREATE_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if (directory / "pid").exists() or self._exit_file(handle).exists() or not self._creators(handle.id):
                return
            time.sleep(KILL_AGAIN_SECONDS)

    def _waits_to_start(self, handle: Handle) -> bool:
        """Whether the container's first process still waits in `exec.fifo`. That the FIFO exists does not say so: who
        let it go on may have died before removing it."""
        fifo = self._state / handle.id / "exec.fifo"
        if not fifo.exists():
            return False
        try:
            arguments = Path(f"/proc/{self._pid(handle)}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        # Before it has become the step's program it is `runc init`, by whatever name: ours may be a wrapper of runc. A
        # step's program that calls itself so is at worst started once more, which runc refuses.
        if arguments[1:] == [b"init", b""]:
            return True
        fifo.unlink(missing_ok=True)
        return False

    def signal(self, handle: Handle, signal: int) -> None:
        if signal == signals.SIGKILL:
            self._cgroups.kill(handle.id)
            return
        for pid in self._cgroups.processes(handle.id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal)

    def terminate(self, handle: Handle) -> bool:
        # The kernel drops a signal to the first process of a pid namespace unless that has a handler for it, and a
        # shell in its place passes none on: then those below that listen are told themselves.
        listening = [pid for pid in self._cgroups.processes(handle.id) if processes.catches(pid, signals.SIGTERM)]
        first = self._pid(handle)
        for pid in [first] if first in listening else listening:
            with suppress(ProcessLookupError):
                os.kill(pid, signals.SIGTERM)
        return bool(listening)

    def end(self, handle: Handle, wait_seconds: float = 0.0) -> bool:
        deadline = time.monotonic() + wait_seconds
        while True:
            watched = self._conmon_pidfd(handle)
            try:
                if watched is None:
                    # Nobody would tell us of what they make.
                    self._end_creators(handle.id)
                gone = self._cgroups.kill(handle.id)
                # conmon has still to write the exit code, and the last of the log.
                over = watched is None or processes.ended(watched, KILL_AGAIN_SECONDS)
            finally:
                if watched is not None:
                    os.close(watched)
            if gone and over and not (watched is None and self._creators(handle.id)):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(KILL_AGAIN_SECONDS)

    def pause(self, handle: Handle, paused: bool) -> bool:
        return self._cgroups.freeze(handle.id, paused)

    def paused(self, handle: Handle) -> bool:
        return self._cgroups.frozen(handle.id)

    def _creators(self, container: str) -> list[int]:
        """conmon and runc at work on a container, whether or not anybody noted them. Another agent on this machine may
        have an attempt of the same name; it has another folder."""
        return processes.running(self._makers, {container.encode(), f"--root={self._state}".encode()})

    def _end_creators(self, container: str) -> None:
        for pid in self._creators(container):
            with suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)

    def _pid(self, handle: Handle) -> int:
        """The container's first process, as it was noted; 0 before."""
        try:
            return int((Path(handle.directory) / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def network(self, handle: Handle) -> int:
        return namespace.of_container(self._pid(handle), handle.id)

    def collect(self, handle: Handle) -> Collected:
        usage = self._cgroups.usage(handle.id) if handle.boot_id == self._boot else Usage()
        try:
            code = int(self._exit_file(handle).read_text())
        except (OSError, ValueError):
            return Collected(Phase.LOST, None, usage)
        if code == 1 and self._never_began(handle):
            return Collected(Phase.LOST, None, usage)
        # conmon writes -1 when its own timeout, our backstop, ended the container.
        return Collected(Phase.EXITED, code if code >= 0 else 137, usage, backstop=code < 0)

    def _never_began(self, handle: Handle) -> bool:
        """Whether a process before us died between opening `exec.fifo` and reading it: then runc's own first process, let go
        and not read, ended in the place of the step's program."""
        if not (self._state / handle.id / "exec.fifo").exists():
            return False
        with self.log_path(handle).open("rb") as log:
            return b"write exec fifo" in log.read(512)

    def destroy(self, handle: Handle) -> None:
        if not self._exit_file(handle).exists() and (Path(handle.directory) / "starting").exists():
            self.end(handle, KILL_TIMEOUT_SECONDS)
        self._remove(handle.id)
        self._await_conmon(handle)

    def remove(self, container: str) -> None:
        self._end_creators(container)
        self._remove(container)

    def _remove(self, container: str) -> None:
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while not self._cgroups.kill(container) and time.monotonic() < deadline:
            time.sleep(KILL_AGAIN_SECONDS)
        if (self._state / container).exists():
            self._run("delete", "--force", container, check=False)
        self._cgroups.remove(container)

    def close(self) -> None:
        """Removes the empty groups under which containers had theirs."""
        self._cgroups.close()

    def ids(self) -> set[str]:
        return {entry.name for entry in self._state.iterdir() if entry.is_dir()} | self._cgroups.orphans()

    def log_path(self, handle: Handle) -> Path:
        return Path(handle.directory) / "log"

    def versions(self) -> dict[str, str]:
        if self._versions:
            return self._versions
        found: dict[str, str] = {}
        for name, program in (("runc", self._runc), ("conmon", self._conmon)):
            text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
            found[name] = text.split("\n", 1)[0].rsplit(" ", 1)[-1]
        self._versions = found
        return found

    def _exit_file(self, handle: Handle) -> Path:
        return Path(handle.directory) / "exits" / handle.id

    def _conmon_pidfd(self, handle: Handle) -> int | None:
        """A pidfd of the conmon of this very container, or None when it has ended."""
        try:
            pid = int((Path(handle.directory) / "conmon.pid").read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        # The pid may be another's by now. Read after the pidfd was opened, the command line is that process's.
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            command = []
        if handle.id.encode() in command:
            return pidfd
        os.close(pidfd)
        return None

    def _await_conmon(self, handle: Handle) -> None:
        pidfd = self._conmon_pidfd(handle)
        if pidfd is not None:
            try:
                processes.ended(pidfd, KILL_TIMEOUT_SECONDS)
            finally:
                os.close(pidfd)

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [self._runc, "--root", str(self._state), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CREATE_TIMEOUT_SECONDS,
        )
        if check and result.returncode != 0:
            raise StartFailed(f"runc {arguments[0]}: {result.stderr.decode(errors='replace').strip()[:2000]}")
        return result
