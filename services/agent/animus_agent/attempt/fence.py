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


class Standstill:
    """Follows `attempt.fenced` for a container that runs; `total` and `since` outlive the process in a mark."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        mark = attempt.directory.read(MARK)
        self._total: float = mark.get("total", 0.0)
        self._since: float | None = mark.get("since")
        self._stuck = False
        assert attempt.handle is not None
        if self._since is None and attempt.ports.driver.paused(attempt.handle):
            # The process before us died between the deed and the mark, or could not write it.
            self._since = attempt.ports.clock.monotonic()
        elif self._since is not None and attempt.fenced.is_set():
            self._pause(True)

    def follow(self, now: float) -> None:
        fenced = self._attempt.fenced.is_set()
        if fenced and self._since is None:
            # The mark waits for a disk, and may fail.
            stands, self._since = self._pause(True), now
            self._keep()
            if stands:
                log.warning("the container stands still", attempt=self._attempt.name)
            else:
                # Where it cannot be stopped it has to end.
                self._attempt.kill(LEASE_EXPIRED)
        elif not fenced and self._since is not None:
            if not self._pause(False):
                # Again with the next turn; until then it stands still, and its clock with it.
                if not self._stuck:
                    log.error("the container does not go on", attempt=self._attempt.name)
                self._stuck = True
                return
            self._stuck = False
            self._total, self._since = self._total + now - self._since, None
            self._keep()
            log.info("the container goes on", attempt=self._attempt.name, stood_seconds=round(self._total, 3))

    def seconds(self, now: float) -> float:
        """How long it has stood still in all."""
        return self._total + (now - self._since if self._since is not None else 0.0)

    def _pause(self, paused: bool) -> bool:
        assert self._attempt.handle is not None
        return self._attempt.ports.driver.pause(self._attempt.handle, paused)

    def _keep(self) -> None:
        since = {} if self._since is None else {"since": self._since}
        try:
            self._attempt.directory.mark(MARK, total=self._total, **since)
        except OSError as error:
            log.error("a standstill is not written", attempt=self._attempt.name, error_text=str(error))


def stood_still(attempt: Attempt) -> bool:
    """Whether it ever did."""
    return bool(attempt.directory.read(MARK))
