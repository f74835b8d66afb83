"""A driver that runs nothing: for tests, and for thousands of simulated agents.

The first argument is `fake`, the others say what the container does: `exit=3`, `seconds=2`, `out=text`, `err=text`,
`oom`, `ignore-term`, `write=/animus/outputs/model/a.txt:text`, `lost`, `not-runnable`. All state is in one file under
the container's folder, with times on the machine's boot clock, so that another process can go on with it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from animus_agent.errors import CommandNotRunnable, SandboxUnavailable, StartFailed
from animus_agent.files import boot_id, write_atomic
from animus_agent.sandbox.driver import Collected, Handle, Phase, SandboxSpec, Usage

_STAMP = "2000-01-01T00:00:00.000000000+00:00"


@dataclass(slots=True)
class _State:
    args: list[str]
    mounts: dict[str, str]
    started: float | None = None
    ended: float | None = None
    code: int | None = None
    oom: int = 0
    lost: bool = False
    paused: float | None = None
    options: dict[str, str] = field(default_factory=dict)


class FakeDriver:
    """`monotonic` and `wait` may be replaced to run in simulated time."""

    name = "fake"

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        boot: str | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._wait = wait
        self._boot = boot or boot_id()
        self._directories: dict[str, str] = {}
        # Of the states' files: the fence is another thread than the one that watches.
        self._lock = threading.Lock()

    def prepare(self, spec: SandboxSpec) -> Handle:
        spec.directory.mkdir(parents=True, exist_ok=True)
        options = dict(argument.partition("=")[::2] for argument in spec.args[1:])
        state = _State(list(spec.args), {m.target: str(m.source) for m in spec.mounts if m.writable}, options=options)
        handle = Handle(self.name, spec.id, str(spec.directory), self._boot)
        if not self._path(handle).exists():
            self._save(handle, state)
        return handle

    def start(self, handle: Handle, created: Callable[[], None] | None = None) -> None:
        state = self._load(handle)
        if state.started is not None:
            raise StartFailed("this container was started before", "CONTAINER_STARTED_BEFORE")
        if created is not None:
            created()
        state.started = self._monotonic()
        if "not-runnable" in state.options:
            state.ended, state.lost = state.started, True
            self._save(handle, state)
            raise CommandNotRunnable(f"exec: {state.args[0]!r}: no such file or directory")
        for stream, key in (("stdout", "out"), ("stderr", "err")):
            if key in state.options:
                with self.log_path(handle).open("ab") as log:
                    log.write(f"{_STAMP} {stream} F {state.options[key]}\n".encode())
        if "write" in state.options:
            target, _, text = state.options["write"].partition(":")
            mount = next(m for m in state.mounts if target.startswith(m + "/"))
            path = Path(state.mounts[mount]) / target.removeprefix(mount + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        state.ended = state.started + float(state.options.get("seconds", "0"))
        state.code = 137 if "oom" in state.options else int(state.options.get("exit", "0"))
        state.oom = 1 if "oom" in state.options else 0
        state.lost = "lost" in state.options
        self._save(handle, state)
        self._directories[handle.id] = handle.directory

    def status(self, handle: Handle, wait_seconds: float = 0.0) -> Phase:
        phase = self._phase(self._load(handle))
        if phase is Phase.RUNNING and wait_seconds:
            left = (self._load(handle).ended or 0) - self._monotonic()
            self._wait(max(0.0, min(wait_seconds, left)))
            phase = self._phase(self._load(handle))
        return phase

    def recover(self, handle: Handle) -> Phase:
        phase = self._phase(self._load(handle))
        if handle.boot_id != self._boot and phase is Phase.RUNNING:
            return Phase.LOST
        self._directories[handle.id] = handle.directory
        return phase

    def signal(self, handle: Handle, signal: int) -> None:
        with self._lock:
            state = self._load(handle)
            if self._phase(state) is Phase.RUNNING and not (signal == 15 and "ignore-term" in state.options):
                state.ended, state.code, state.paused = self._monotonic(), 128 + signal, None
                self._save(handle, state)

    def terminate(self, handle: Handle) -> bool:
        self.signal(handle, 15)
        return True

    def end(self, handle: Handle, wait_seconds: float = 0.0) -> bool:
        self.signal(handle, 9)
        return True

    def pause(self, handle: Handle, paused: bool) -> bool:
        """Time stands still for what is paused."""
        with self._lock:
            state = self._load(handle)
            if paused and state.paused is None and self._phase(state) is Phase.RUNNING:
                state.paused = self._monotonic()
            elif not paused and state.paused is not None:
                state.ended = (state.ended or 0) + self._monotonic() - state.paused
                state.paused = None
            self._save(handle, state)
        return True

    def paused(self, handle: Handle) -> bool:
        return self._load(handle).paused is not None

    def collect(self, handle: Handle) -> Collected:
        state = self._load(handle)
        if state.lost or state.code is None:
            return Collected(Phase.LOST, None, Usage())
        return Collected(Phase.EXITED, state.code, Usage(oom_kills=state.oom, cpu_nanoseconds=0))

    def destroy(self, handle: Handle) -> None:
        self._directories.pop(handle.id, None)
        if self._path(handle).exists():
            self.signal(handle, 9)

    def remove(self, container: str) -> None:
        self._directories.pop(container, None)

    def close(self) -> None:
        pass

    def network(self, handle: Handle) -> int:
        raise SandboxUnavailable("the fake driver has no namespaces", "EGRESS_UNAVAILABLE")

    def ids(self) -> set[str]:
        return set(self._directories)

    def log_path(self, handle: Handle) -> Path:
        return Path(handle.directory) / "log"

    def resume_start(self, handle: Handle) -> None:
        self.start(handle)

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def _phase(self, state: _State) -> Phase:
        if state.started is None:
            return Phase.PREPARED
        if state.lost:
            return Phase.LOST
        now = self._monotonic() if state.paused is None else state.paused
        return Phase.RUNNING if now < (state.ended or 0) else Phase.EXITED

    def _path(self, handle: Handle) -> Path:
        return Path(handle.directory) / "fake.json"

    def _load(self, handle: Handle) -> _State:
        return _State(**json.loads(self._path(handle).read_text()))

    def _save(self, handle: Handle, state: _State) -> None:
        fields = {name: getattr(state, name) for name in _State.__slots__}
        write_atomic(self._path(handle), json.dumps(fields).encode(), durable=False)
