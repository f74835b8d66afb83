"""Stand-ins for what the orchestrator calls: the same proto services, and nothing behind them."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from animus.audit.v1 import ingest_pb2, ingest_pb2_grpc
from animus.catalog.v1 import resolution_pb2, resolution_pb2_grpc
from animus.policy.v1 import decision_pb2, decision_pb2_grpc
from animus_kit.documents.decision import PolicySnapshot
from animus_kit.server import context
from animus_kit.server.authz import denied
from animus_kit.server.token import Claims, TokenInvalid
from tests.orchestrator.samples import digest

LOCK = "projects/{p}/environments/py/locks/l1"


class FakeVerifier:
    """The token is the subject."""

    def verify(self, token: str) -> Claims:
        if token == "bad":
            raise TokenInvalid("bad")
        now = datetime.now(UTC)
        return Claims(token, ("everyone",), now, now + timedelta(minutes=15))


class FakeAccess:
    """Allows all but what is in `denied`: (subject, permission)."""

    def __init__(self) -> None:
        self.denied: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str, str | None]] = []

    def check(self, ctx: Any, permission: str, project: str | None) -> None:
        self.asked.append((ctx.subject, permission, project))
        if (ctx.subject, permission) in self.denied:
            raise denied(permission, project)


class FakeCatalog(resolution_pb2_grpc.ResolutionServiceServicer):
    """Everything resolves, but names that hold "missing"."""

    def __init__(self) -> None:
        self.salt = ""
        self.calls = 0
        self.stored: dict[str, int] = {}

    def GetStoredBytes(self, request: Any, _: Any) -> Any:
        return resolution_pb2.GetStoredBytesResponse(stored_bytes=self.stored.get(request.project, 0))

    def ResolveBindings(self, request: Any, _: Any) -> Any:
        self.calls += 1
        out = resolution_pb2.ResolveBindingsResponse()
        for field, names in (
            ("dataset_versions", request.dataset_versions),
            ("code_snapshots", request.code_snapshots),
        ):
            for name in names:
                if "missing" in name:
                    reason = "DATASET_VERSION_NOT_FOUND" if field == "dataset_versions" else "CODE_SNAPSHOT_NOT_FOUND"
                    out.unresolved.add(reference=name, reason=reason, message="there is none")
                else:
                    getattr(out, field).add(name=name, manifest_digest=digest(name + self.salt), size_bytes=1)
        for image in request.image_digests:
            lock = LOCK.format(p=request.project.removeprefix("projects/"))
            out.images.add(
                image_digest=image, environment_lock=lock, lock_digest=digest("lock"), platform="linux/amd64"
            )
        return out


class FakePolicy(decision_pb2_grpc.DecisionPointServiceServicer):
    def __init__(self) -> None:
        self.deny = False
        self.decided: dict[str, Any] = {}
        self.actors: dict[str, str] = {}
        """By what was decided on: who asked, as the caller said."""
        self.lock = threading.Lock()

    def GetCurrentSnapshot(self, request: Any, _: Any) -> Any:
        document = PolicySnapshot(project=request.project, policy_set_digest=digest("policies"), policies=(), rules=())
        return decision_pb2.PolicySnapshot(
            name=f"{request.project}/policySnapshots/{document.digest[7:47]}",
            document=document.to_bytes(),
            snapshot_digest=document.digest,
        )

    def Decide(self, request: Any, _: Any) -> Any:
        with self.lock:
            self.actors[request.resource] = context.current().stated_actor
            if request.request_id in self.decided:
                return self.decided[request.request_id]
            effect = decision_pb2.Decision.EFFECT_DENY if self.deny else decision_pb2.Decision.EFFECT_ALLOW
            made = decision_pb2.Decision(
                name=f"{request.project}/decisions/d{uuid.uuid4().hex[:8]}",
                effect=effect,
                decision_digest=digest(request.resource),
                message="because the test says so" if self.deny else "",
            )
            if not request.dry_run:
                self.decided[request.request_id] = made
            return made


class FakeAudit(ingest_pb2_grpc.EventIngestServiceServicer):
    """Keeps what it is sent, and refuses gaps."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.lock = threading.Lock()

    def AppendEvents(self, request: Any, _: Any) -> Any:
        with self.lock:
            for event in request.events:
                if event.seq == len(self.events) + 1:
                    self.events.append(event)
                assert event.seq <= len(self.events), "a gap"
            return ingest_pb2.AppendEventsResponse(last_seq=len(self.events))
