"""A fenced attempt stands still: nothing of it runs while its lease cannot be renewed, and nothing of it is lost.

Frozen by the kernel it does nothing that another node's attempt could meet. With the next renewal it goes on where it
stood; an attempt that was given to somebody else meanwhile is told STALE and killed without having run again. The
time it stood still does not count against its timeout.
"""

from __future__ import annotations

from pathlib import Path

from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.directory import AttemptDirectory
from animus_agent.attempt.failure import LEASE_EXPIRED
from animus_agent.sandbox.driver import Driver, Handle, Phase
from animus_kit.log import get_logger

log = get_logger(__name__)

MARK = "paused"


def freeze_expired(attempts: Path, driver: Driver, now: float) -> None:
    """Has every container below `attempts` stand still whose lease ran out before `now`, on the monotonic clock, while no
    agent was there. Needs nothing but the folders, and goes on past one that it cannot read."""
    for path in sorted(attempts.iterdir()):
        directory = AttemptDirectory(path)
        try:
            marks = directory.read("sandbox")
            if not marks or now < directory.read("lease").get("deadline", 0.0):
                continue
            handle = Handle.from_json(marks["handle"])
            phase = driver.status(handle)
            # LOST: conmon is dead, and what it had started may go on.
            if phase in (Phase.PREPARED, Phase.EXITED):
                continue
            if driver.pause(handle, True):
                log.warning("the container stands still: its lease ran out unwatched", container=directory.id)
                continue
            if phase is Phase.RUNNING:
                # Where it cannot be stopped it has to end.
                directory.intend_kill(LEASE_EXPIRED)
            driver.end(handle)
        except (OSError, ValueError, KeyError) as error:
            log.error("a container could not be looked at", container=directory.id, error_text=str(error))


def stand_still(attempt: Attempt, driver: Driver, now: float) -> bool:
    """Stops the container of a fenced attempt; whether it stands. From any thread, repeatable, and without a disk."""
    assert attempt.handle is not None
    with attempt.freezing:
        if not attempt.fenced.is_set():
            # Renewed meanwhile: nobody would let it go on.
            return True
        if not driver.pause(attempt.handle, True):
            return False
        if attempt.stands_since is None:
            attempt.stands_since = now
        return True


def go_on(attempt: Attempt) -> bool:
    """Lets the container of an attempt that has its lease go on; whether it does."""
    assert attempt.handle is not None
    with attempt.freezing:
        if attempt.fenced.is_set() or not attempt.ports.driver.pause(attempt.handle, False):
            return False
        attempt.stands_since = None
        return True


class Standstill:
    """Follows the fence for a container that runs: has it go on again, and keeps in a mark what outlives the process, since
    when it stands still and for how long it has."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        mark = attempt.directory.read(MARK)
        self._total: float = mark.get("total", 0.0)
        self._told = False
        self._stuck = False
        assert attempt.handle is not None
        with attempt.freezing:
            since = mark.get("since", attempt.stands_since)
            if since is None and attempt.ports.driver.paused(attempt.handle):
                # The process before us died between the deed and the mark, or could not write it.
                since = attempt.ports.clock.monotonic()
            attempt.stands_since = since

    def follow(self, now: float) -> None:
        if self._attempt.fenced.is_set():
            self._stand_still(now)
        elif self._attempt.stands_since is not None:
            self._go_on(now)
        else:
            self._told = False

    def _stand_still(self, now: float) -> None:
        if self._told:
            return
        self._told = True
        # The mark waits for a disk, and may fail.
        stands = stand_still(self._attempt, self._attempt.ports.driver, now)
        self._keep()
        if stands:
            log.warning("the container stands still", attempt=self._attempt.name)
        else:
            # Where it cannot be stopped it has to end.
            self._attempt.kill(LEASE_EXPIRED)

    def _go_on(self, now: float) -> None:
        # The fence may have stopped it before we looked, or without us ever seeing it.
        stood = self.seconds(now)
        if not go_on(self._attempt):
            # Again with the next turn; until then it stands still, and its clock with it.
            if not self._stuck:
                log.error("the container does not go on", attempt=self._attempt.name)
            self._stuck = True
            return
        self._told, self._stuck = False, False
        self._total = stood
        self._keep()
        log.info("the container goes on", attempt=self._attempt.name, stood_seconds=round(self._total, 3))

    def seconds(self, now: float) -> float:
        """How long it has stood still in all."""
        since = self._attempt.stands_since
        # The fence may have stopped it after `now` was read.
        return self._total + (max(0.0, now - since) if since is not None else 0.0)

    def _keep(self) -> None:
        since = self._attempt.stands_since
        try:
            self._attempt.directory.mark(MARK, total=self._total, **({} if since is None else {"since": since}))
        except OSError as error:
            log.error("a standstill is not written", attempt=self._attempt.name, error_text=str(error))


def stood_still(attempt: Attempt) -> bool:
    """Whether it ever did."""
    return bool(attempt.directory.read(MARK))
