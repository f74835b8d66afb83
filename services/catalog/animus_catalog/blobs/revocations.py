"""Whether an agent may still come in. Its certificate says who it is; the log says whether that still counts."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from animus_catalog.domain.errors import AgentRevoked, CertificateSuperseded
from animus_catalog.store import refused_agents
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.tls import Peer

KNOWN_SECONDS = 1.0
"""So long an answer is good. Another replica may have read the event: the table tells, not this process's memory."""


class Revocations:
    """Safe for many threads. Without its table nobody is let in: `check` raises what the database does."""

    def __init__(self, engine: sa.Engine, clock: Clock):
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._refused: frozenset[tuple[str, str]] = frozenset()
        self._until = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether `check` answers without asking the database."""
        return self._clock.monotonic() < self._until

    def check(self, peer: Peer) -> None:
        """Raises AgentRevoked, CertificateSuperseded."""
        refused = self._known()
        if (peer.name, refused_agents.EVERY_SERIAL) in refused:
            raise AgentRevoked(f"agents/{peer.name} is revoked")
        if (peer.name, peer.serial) in refused:
            raise CertificateSuperseded(f"agents/{peer.name} has enrolled again since this certificate was given")

    def _known(self) -> frozenset[tuple[str, str]]:
        with self._lock:
            if not self.fresh:
                asked = self._clock.monotonic()
                with transaction(self._engine) as conn:
                    self._refused = refused_agents.every(conn)
                self._until = asked + KNOWN_SECONDS
            return self._refused
