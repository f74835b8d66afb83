"""What the agent holds: attempts with their leases, the threads that run them, and the room that is left.

Level-triggered: `states` is what the agent states of itself, `direct` applies what the server wants of it. Everything
here may be repeated, doubled or late.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from animus.agent.v1 import dispatch_pb2 as pb
from animus_agent.attempt import fence, prepare, running, steps
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.attempt.failure import CANCELED, LEASE_EXPIRED, PREEMPTED, REBOOTED, STALE
from animus_agent.attempt.ports import Ports, Result
from animus_agent.disk import Disk
from animus_agent.errors import SpoolUnavailable
from animus_agent.files import boot_id
from animus_agent.node import NodeParts
from animus_agent.reporter import SpoolReporter, State
from animus_agent.room import Room, reserved
from animus_agent.spool import Spool
from animus_kit import retry
from animus_kit.clock import Clock
from animus_kit.log import get_logger

log = get_logger(__name__)

# The control plane may be away for so long, and whatever waits for it then goes on.
FENCED_LIMIT_SECONDS = 24 * 3600.0

Intent = pb.AttemptDirective.Intent


@dataclass(slots=True)
class Held:
    """One attempt. `deadline`: when its lease ends, on the monotonic clock."""

    attempt: Attempt
    reporter: SpoolReporter
    state: int
    deadline: float
    cpu_millis: int = 0
    memory_bytes: int = 0
    gpu_uuids: tuple[str, ...] = ()
    ended: bool = False
    given_up: bool = False
    forget: bool = False
    thread: threading.Thread | None = None


@contextmanager
def _going_on(error: str, **about: str) -> Iterator[None]:
    """Whatever is wrong with one attempt keeps neither the others nor the agent from starting."""
    try:
        yield
    except Exception:
        log.exception(error, **about)


class Holdings:
    """Safe for many threads. `changed` is called when there is something new to state."""

    def __init__(
        self,
        parts: NodeParts,
        spool: Spool,
        clock: Clock,
        ports: Callable[[SpoolReporter, bytes, Callable[[], None]], Ports],
        changed: Callable[[], None],
        *,
        max_attempts: int,
        lease_margin: float,
        fenced_limit: float = FENCED_LIMIT_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._parts = parts
        self._spool = spool
        self._clock = clock
        self._ports = ports
        self._changed = changed
        self._room = Room(parts, max_attempts, Disk(parts.attempts_dir, (parts.trees, parts.images), changed))
        self._margin = lease_margin
        self._fenced_limit = fenced_limit
        self._pause = pause
        self._lock = threading.RLock()
        self._held: dict[str, Held] = {}
        self.draining = False

    # What we say.

    def states(self) -> list[pb.HeldAttempt]:
        with self._lock:
            return [pb.HeldAttempt(attempt=name, state=held.state) for name, held in sorted(self._held.items())]

    def room(self) -> pb.Room:
        """Nothing while draining; an attempt that ended holds no room."""
        with self._lock:
            live = [held for held in self._held.values() if not held.ended]
        # Outside the lock: it looks at the disk, for which the fence would wait.
        return pb.Room() if self.draining else self._room.beside(live)

    def active(self) -> int:
        with self._lock:
            return sum(not held.ended for held in self._held.values())

    # What we are told.

    def assign(self, assignment: pb.Assignment, stated_at: float) -> None:
        """Takes new work; not what this node has had before, in whatever way it ended, nor what came so late that another
        node may have it. Only called by one thread: `_lock` is not held across the disk, for which the fence would wait."""
        name = assignment.attempt
        if name in self._held or self._had(name) or self.draining:
            return
        deadline = stated_at + assignment.lease_duration.ToTimedelta().total_seconds()
        if self._clock.monotonic() >= deadline - self._margin:
            log.warning("an assignment came too late", attempt=name)
            return
        directory = AttemptDirectory(self._parts.attempts_dir / identifier(name))
        reporter = self._reporter(name)
        try:
            # The spool does not know it, so that a folder is one that nothing was begun in.
            directory.remove()
            directory.create(name, assignment.contract, assignment.grant, durable=False)
            directory.mark("lease", deadline=deadline)
            self._spool.accept(name, reporter.first())
            self._parts.had.add(directory.id)
        except (SpoolUnavailable, OSError) as error:
            # Not taken: it is sent again, here until its lease runs out and then elsewhere.
            log.error("an attempt could not be accepted", attempt=name, error_text=str(error))
            directory.remove()
            return
        with self._lock:
            held = self._hold(name, directory, assignment.contract, assignment.grant, deadline, reporter)
        self._equip(held)
        self._launch(held)

    def direct(self, directive: pb.AttemptDirective, stated_at: float) -> None:
        """Applies an intent. A renewed lease counts from when we stated that we hold the attempt, which is before the
        server wrote it down: our clock ends first."""
        name = directive.attempt
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return
            if directive.intent in (Intent.INTENT_KEEP, Intent.INTENT_CANCEL, Intent.INTENT_PREEMPT):
                lease = directive.lease_duration.ToTimedelta().total_seconds()
                held.deadline = max(held.deadline, stated_at + lease)
                if self._clock.monotonic() < held.deadline - self._margin:
                    held.attempt.fenced.clear()
        if not held.ended:
            # Without the mark, a process after us waits for a renewal.
            with suppress(OSError):
                held.attempt.directory.mark("lease", deadline=held.deadline)
        if directive.intent == Intent.INTENT_CANCEL and not held.ended:
            held.attempt.kill(CANCELED)
        elif directive.intent == Intent.INTENT_PREEMPT and not held.ended:
            held.attempt.kill(PREEMPTED)
        elif directive.intent == Intent.INTENT_STALE:
            self.stale(name)
        elif directive.intent == Intent.INTENT_FORGET:
            self._forget(name)

    def stale(self, name: str) -> None:
        """Not ours any more: killed at once, told nothing more of."""
        held = self._held.get(name)
        if held is None:
            return
        log.warning("stale attempt", attempt=name)
        if held.ended:
            self._forget(name)
        else:
            held.forget = True
            held.attempt.kill(STALE)

    def abandon(self) -> None:
        """This node is revoked: nothing it holds is its own any more."""
        for name in list(self._held):
            with _going_on("an attempt could not be given up", attempt=name):
                self.stale(name)

    def fence(self) -> None:
        """Has everything stand still that could not be renewed in time: before the server may give the step to another
        node. Whether it did, it tells when it is back: what is still ours goes on, and the rest is stale. What stood
        still for `fenced_limit` is given up. Waits for no disk, and for no thread that does."""
        now = self._clock.monotonic()
        with self._lock:
            late = [
                held
                for held in self._held.values()
                if not held.ended and not held.attempt.rebooted and now >= held.deadline - self._margin
            ]
            fresh = [h for h in late if not h.attempt.fenced.is_set()]
            for held in fresh:
                held.attempt.fenced.set()
        for held in late:
            attempt = held.attempt
            # Each turn, in case it failed; but what is being ended has to go on for its end.
            if attempt.runs and not attempt.dead and (held in fresh or not attempt.wake.is_set()):
                try:
                    fence.stand_still(attempt, self._parts.driver, now)
                except Exception:
                    log.exception("a container could not be stopped", attempt=attempt.name)
        for held in fresh:
            log.error("lease expired; the attempt is fenced", attempt=held.attempt.name)
        for held in late:
            if not held.given_up and now >= held.deadline - self._margin + self._fenced_limit:
                held.given_up = True
                # Its intent is written down first.
                threading.Thread(target=held.attempt.kill, args=(LEASE_EXPIRED,), daemon=True).start()

    # Beginning and end.

    def recover(self) -> None:
        """Finds what a process before us held: ended attempts wait to be forgotten, all others are gone on with.

        Containers and volumes that belong to no attempt are removed. What ran on beyond its lease stands still first:
        all else takes time, in which another node may run the step.
        """
        fence.freeze_expired(self._parts.attempts_dir, self._parts.driver, self._clock.monotonic() + self._margin)
        open_attempts = self._spool.open_attempts()
        for path in sorted(self._parts.attempts_dir.iterdir()):
            # What cannot be adopted is not listed, and so it is lost; its container is removed below.
            with _going_on("an attempt could not be adopted", folder=path.name):
                self._adopt(AttemptDirectory(path), open_attempts)
        for name, ended in open_attempts.items():
            with _going_on("an attempt without a folder could not be told", attempt=name):
                self._without_folder(name, ended)
        adopted = [held.attempt for held in self._held.values()]
        for orphan in self._parts.driver.ids() - {attempt.directory.id for attempt in adopted}:
            log.warning("orphan removed", container=orphan)
            with _going_on("an orphan could not be removed", container=orphan):
                self._parts.driver.remove(orphan)
        self._parts.quota.start({attempt.volume_name for attempt in adopted})

    def _adopt(self, directory: AttemptDirectory, open_attempts: dict[str, bool]) -> None:
        """Takes one folder over, and its attempt out of `open_attempts`."""
        try:
            name, contract, grant, boot = directory.load()
        except (ValueError, OSError):
            return directory.remove()
        if name not in open_attempts:
            # Forgotten while its folder was being removed, or never remembered: nothing was created yet.
            return directory.remove()
        ended = open_attempts.pop(name)
        volume = directory.read("sandbox").get("volume", "")
        # On the monotonic clock, which another boot started anew.
        deadline = directory.read("lease").get("deadline", 0.0)
        reporter = self._reporter(name)
        state = self._last_state(name) if ended else State.STATE_PREPARING
        with self._lock:
            held = self._hold(name, directory, contract, grant, deadline, reporter)
            held.ended, held.state = ended, state
            held.attempt.rebooted = boot != boot_id()
            held.attempt.volume_name = volume
        with suppress(ValueError):
            # Whether it was started is asked when it is gone on with; until then the fence takes it for running.
            held.attempt.handle = prepare.handle_of(held.attempt)
            held.attempt.runs = held.attempt.handle is not None
        # Its container may run: before anything else could ask for its devices.
        self._parts.gpus.adopt(name, held.gpu_uuids)
        self._parts.had.add(directory.id)
        log.info("attempt adopted", attempt=name, ended=held.ended)

    def resume(self) -> None:
        """Starts the threads of what was adopted. Leases went on without us: what has none begins nothing."""
        self.fence()
        with self._lock:
            adopted = [held for held in self._held.values() if held.thread is None]
        for held in adopted:
            self._equip(held)
            if not held.ended:
                # All of them before the first goes on: what one fetches could evict what another's container runs on.
                prepare.hold_contents(held.attempt)
        for held in adopted:
            if held.ended:
                with _going_on("an attempt could not be cleaned up", attempt=held.attempt.name):
                    steps.clean_up(held.attempt)
            else:
                self._launch(held)

    def join(self, seconds: float) -> bool:
        """Waits for all threads; whether they ended."""
        deadline = self._clock.monotonic() + seconds
        with self._lock:
            threads = [held.thread for held in self._held.values() if held.thread]
        for thread in threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def end_rest(self) -> None:
        """Kills what the threads that did not end have left running: this process goes, and nobody would watch it."""
        with self._lock:
            rest = [held.attempt for held in self._held.values() if held.thread and held.thread.is_alive()]
        for attempt in rest:
            try:
                handle = prepare.handle_of(attempt)
                if handle is not None and not self._parts.driver.end(handle, running.END_SECONDS):
                    log.error("a container does not end", attempt=attempt.name)
            except Exception:
                log.exception("a container cannot be ended", attempt=attempt.name)

    def _hold(
        self, name: str, directory: AttemptDirectory, contract: bytes, grant: bytes, deadline: float,
        reporter: SpoolReporter,
    ) -> Held:  # fmt: skip
        # Its ports come with its thread: what was adopted waits for the canaries.
        attempt = Attempt(name, directory, contract, grant, None)  # type: ignore[arg-type]
        held = Held(attempt, reporter, State.STATE_PREPARING, deadline, *reserved(contract))
        self._held[name] = held
        return held

    def _equip(self, held: Held) -> None:
        attempt = held.attempt
        attempt.ports = self._ports(held.reporter, attempt.grant_envelope, attempt.check)

    def _launch(self, held: Held) -> None:
        thread = threading.Thread(target=self._run, args=(held,), name=held.attempt.directory.id, daemon=True)
        held.thread = thread
        thread.start()

    def _run(self, held: Held) -> None:
        attempt = held.attempt
        marks = [("accept", time.perf_counter())]
        try:
            steps.execute(attempt, lambda name: marks.append((name, time.perf_counter())))
        except Exception:
            log.exception("an attempt could not be reported", attempt=attempt.name)
            self._report_again(attempt)
        with self._lock:
            held.ended = True
        self._changed()
        marks.append(("end", time.perf_counter()))
        took = {name: round((after - at) * 1000, 1) for (name, at), (_, after) in itertools.pairwise(marks)}
        reason = attempt.failure.reason if attempt.failure else "SUCCEEDED"
        log.info("attempt ended", attempt=attempt.name, milliseconds=took,
                 reason="ABANDONED" if attempt.abandoned else reason)  # fmt: skip
        with _going_on("an attempt could not be cleaned up", attempt=attempt.name):
            steps.clean_up(attempt)
        if held.forget:
            self._forget(attempt.name)

    def _report_again(self, attempt: Attempt) -> None:
        """A full disk, say. The attempt stays held, and nothing else of it is done, until its end is kept."""
        for seconds in retry.backoff(1.0, 30.0):
            self._pause(seconds)
            try:
                return steps.report(attempt)
            except Exception as error:
                log.error("still not reported", attempt=attempt.name, error_text=str(error))

    def _forget(self, name: str) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return
            if held.thread is not None and held.thread.is_alive() and held.thread is not threading.current_thread():
                # Cleaning up; it forgets itself when it is done.
                held.forget = True
                return
            del self._held[name]
        self._spool.forget(name)
        held.attempt.directory.remove()
        self._changed()

    def _without_folder(self, name: str, ended: bool) -> None:
        """Remembered, and its folder is gone: a power cut took it, or it was being forgotten."""
        if not ended:
            self._reporter(name).result(Result(REBOOTED))
        else:
            self._spool.forget(name)

    def _reporter(self, name: str) -> SpoolReporter:
        return SpoolReporter(self._spool, name, self._clock, lambda state: self._set_state(name, state))

    def _set_state(self, name: str, state: int) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                held.state = state

    def _had(self, name: str) -> bool:
        """Also where the spool has forgotten it: one that was put back from a copy."""
        if self._spool.knows(name):
            return True
        if identifier(name) not in self._parts.had:
            return False
        log.error("an attempt that this node has had is not taken again", attempt=name)
        return True

    def _last_state(self, name: str) -> int:
        """Of an attempt that has ended; once its result was acknowledged the row is gone, and any end will do."""
        body = self._spool.result_of(name)
        return pb.SpoolEvent.FromString(body).result.state if body else State.STATE_FAILED
