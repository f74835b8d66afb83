"""Events as a source would send them, for audit's tests."""

import itertools
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from animus.audit.v1 import ingest_pb2 as pb
from animus_audit.domain.envelope import Leaf, check
from animus_kit.documents.event import build_envelope, build_payload

TIME = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass
class Source:
    """One service's database: makes its events in order."""

    name: str
    generation: str = field(default_factory=lambda: str(uuid.uuid4()))
    project: str | None = None
    _seqs: itertools.count = field(default_factory=lambda: itertools.count(1))

    def make(self, seq: int, **changes) -> pb.SourceEvent:
        """One event; the same arguments twice give two bodies, since the salt differs."""
        salt = uuid.uuid4().bytes * 2
        payload = changes.pop("payload", None) or build_payload("catalog.dataset.created", {"n": seq}, "alice")
        fields = {
            "id": str(uuid.uuid4()),
            "source": self.name,
            "generation": self.generation,
            "seq": seq,
            "event_type": f"{self.name}.dataset.created",
            "time": TIME,
            "resource": f"{self.project or 'projects/p'}/datasets/d{seq}",
            "actor": "a-" + "0" * 32,
            "project": self.project,
        } | changes
        envelope = build_envelope(salt=salt, payload=payload, **fields)
        return pb.SourceEvent(seq=seq, envelope=envelope, payload=payload, salt=salt)

    def next(self, count: int = 1, **changes) -> list[pb.SourceEvent]:
        return [self.make(next(self._seqs), **changes) for _ in range(count)]

    def leaves(self, events: list[pb.SourceEvent]) -> list[Leaf]:
        return [check(self.name, self.generation, e.seq, e.envelope, e.payload, e.salt) for e in events]

    def request(self, events: list[pb.SourceEvent]) -> pb.AppendEventsRequest:
        return pb.AppendEventsRequest(generation=self.generation, events=events)
