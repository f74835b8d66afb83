"""Forgets what nobody came back for: interrupted uploads, and the staging files of killed servers."""

from __future__ import annotations

import threading
from datetime import timedelta

import sqlalchemy as sa

from animus_catalog.blobs.staging import Staging
from animus_catalog.store import blobs as store
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.log import get_logger

EVERY_SECONDS = 600.0

log = get_logger(__name__)


class Janitor:
    """A background task. keep: how long an interrupted upload can be gone on with."""

    def __init__(self, engine: sa.Engine, staging: Staging, clock: Clock, keep: timedelta):
        self._engine = engine
        self._staging = staging
        self._clock = clock
        self._keep = keep
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def sweep(self) -> None:
        """One round. Replicas may do it at the same time."""
        oldest = self._clock.now() - self._keep
        with transaction(self._engine) as conn:
            names = store.drop_uploads_before(conn, oldest)
        for name in names:
            self._staging.remove(name)
        # A day more than uploads are kept: a file is younger than the row that names it.
        self._staging.remove_before((oldest - timedelta(days=1)).timestamp())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                self.sweep()
            except Exception:
                log.exception("a sweep failed; the next one tries again")
