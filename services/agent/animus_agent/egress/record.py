"""What the proxy decided, for the sandbox report: one row for each destination and reason, in a file of the attempt.

The file survives the agent, so that an adopted container's report holds what was before. A row is written before its
first connection is made; counts follow within a second, so that a killed agent may lose the last second of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from animus_agent.files import write_atomic
from animus_kit.clock import Clock
from animus_kit.documents.sandbox import Egress, EgressDecision

# Destinations that are on the list are few. Those that are not are the step's choice, and bounded here.
MAX_REFUSED = 256
MAX_ADDRESSES = 16
# Of all rows in the report, which dispatch takes as a whole or not at all; the contract's own list comes on top.
MAX_BYTES = 160 << 10
_ROW_BYTES, _ADDRESS_BYTES = 300, 3
SAVE_SECONDS = 1.0


@dataclass(slots=True)
class _Row:
    destination: str
    allowed: bool
    reason: str
    first: float
    last: float
    connections: int = 0
    sent: int = 0
    received: int = 0
    addresses: list[str] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """Bytes in the report, at most."""
        return _ROW_BYTES + len(self.destination.encode()) + sum(len(one) + _ADDRESS_BYTES for one in self.addresses)


class Record:
    """Safe for many threads."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], _Row] = {}
        self._unlisted = self._weight = 0
        self._saved = float("-inf")
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        self._unlisted = document["unlisted"]
        for fields in document["rows"]:
            self._add(_Row(**fields))

    def decided(self, destination: str, allowed: bool, reason: str, addresses: Iterable[str] = ()) -> None:
        """One connection. Durable against the death of this process when it is the first of its kind."""
        now = self._clock.now().timestamp()
        with self._lock:
            row = self._rows.get((destination, reason))
            fresh = row is None
            if row is None:
                row = _Row(destination, allowed, reason, now, now)
                many = not allowed and sum(not one.allowed for one in self._rows.values()) >= MAX_REFUSED
                if many or self._weight + row.weight > MAX_BYTES:
                    self._unlisted += 1
                    return self._save(at_once=self._unlisted == 1)
                self._add(row)
            row.connections += 1
            row.last = max(now, row.first)
            for address in addresses:
                weight = len(address) + _ADDRESS_BYTES
                room = len(row.addresses) < MAX_ADDRESSES and self._weight + weight <= MAX_BYTES
                if address not in row.addresses and room:
                    row.addresses.append(address)
                    self._weight += weight
            self._save(at_once=fresh)

    def moved(self, destination: str, reason: str, sent: int, received: int) -> None:
        """Bytes of a connection that was decided on before."""
        with self._lock:
            row = self._rows.get((destination, reason))
            if row is None:  # one of those that are only counted
                return
            row.sent += sent
            row.received += received
            row.last = max(row.last, self._clock.now().timestamp())
            self._save()

    def save(self) -> None:
        with self._lock:
            self._save(at_once=True)

    def document(self, allow: tuple[str, ...]) -> Egress:
        """`allow`: the contract's list."""
        with self._lock:
            return Egress(
                allow=allow,
                decisions=tuple(
                    EgressDecision(
                        destination=row.destination,
                        allowed=row.allowed,
                        reason=row.reason,
                        addresses=tuple(row.addresses),
                        connections=row.connections,
                        sent_bytes=row.sent,
                        received_bytes=row.received,
                        first_time=datetime.fromtimestamp(row.first, UTC),
                        last_time=datetime.fromtimestamp(row.last, UTC),
                    )
                    for row in self._rows.values()
                ),
                unlisted=self._unlisted,
            )

    def _add(self, row: _Row) -> None:
        self._rows[row.destination, row.reason] = row
        self._weight += row.weight

    def _save(self, at_once: bool = False) -> None:
        now = self._clock.monotonic()
        if not at_once and now < self._saved + SAVE_SECONDS:
            return
        self._saved = now
        document = {"unlisted": self._unlisted, "rows": [asdict(row) for row in self._rows.values()]}
        write_atomic(self._path, json.dumps(document).encode(), durable=False)
