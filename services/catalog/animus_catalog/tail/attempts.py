"""The end of attempts: what a committed one wrote becomes the project's, what another one wrote is forgotten.

The bytes of forgotten blobs stay in the store until retention exists; nobody can read them any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from animus_catalog.domain.artifacts import Artifact, Metric
from animus_catalog.domain.blobs import Scope
from animus_catalog.store import artifacts, blobs, containers, events
from animus_kit import names
from animus_kit.db.tail import Event
from animus_kit.log import get_logger
from animus_kit.server import metrics

COMMITTED = "orchestrator.attempt.committed"
FAILED = "orchestrator.attempt.failed"
TYPES = (COMMITTED, FAILED)

log = get_logger(__name__)


class Attempts:
    """Applies the events. remove: forgets a staging file by its name; may be called for one that is gone."""

    def __init__(self, remove: Callable[[str], None]):
        self._remove = remove

    def apply(self, conn: sa.Connection, event: Event) -> None:
        """In the transaction that moves the cursor. An event that was applied before changes nothing."""
        if event.type not in TYPES:
            return
        if not event.payload:
            # Only after retention erased it, which is long after it was applied here, unless this is a rebuild.
            log.warning("an erased event cannot be applied", index=event.index, type=event.type)
            return
        try:
            attempt = str(event.body.get("attempt") or event.resource)
            scope = Scope(names.id_of(names.project_of(attempt)), attempt)
            outputs = event.body["outputs"] if event.type == COMMITTED else []
            written = [_artifact(event, scope.project, output) for output in outputs]
        except (KeyError, ValueError, TypeError, AttributeError, names.InvalidName) as problem:
            # It never becomes readable: waiting for it would keep every later result from the catalog. What it should
            # have said stays in the log, and what its attempt wrote stays nobody's.
            metrics.tail_skipped("catalog")
            log.error(
                "an event that cannot be read is skipped", index=event.index, type=event.type, error=repr(problem)
            )
            return
        blobs.lock_attempt(conn, attempt)
        if not blobs.end(conn, attempt, event.type == COMMITTED, event.head.time):
            return
        staged = blobs.digests_staged(conn, scope)
        if event.type == COMMITTED:
            blobs.own_staged(conn, scope, event.head.time)
            for artifact in written:
                if artifacts.create(conn, artifact):
                    events.artifact_created(conn, artifact, event.head.request_id or "")
        else:
            blobs.drop_staged(conn, scope)
            containers.drop_unowned(conn, scope.project, staged)
        for name in blobs.drop_uploads_of(conn, scope):
            self._remove(name)


def _artifact(event: Event, project: str, output: dict[str, Any]) -> Artifact:
    body = event.body
    name = str(output["artifact"])
    if names.project_of(name) != f"projects/{project}":
        raise ValueError(f"event {event.index}: {name} is not in projects/{project}")
    return Artifact(
        project=project,
        id=names.id_of(name),
        attempt=str(body["attempt"]),
        run=str(body["run"]),
        step=str(body["step"]),
        output=str(output["name"]),
        type=str(output["type"]),
        media_type=str(output.get("mediaType", "")),
        manifest_digest=str(output["manifestDigest"]),
        # 64-bit numbers are decimal strings in documents.
        file_count=int(output.get("files", 0)),
        size=int(output.get("bytes", 0)),
        metrics=[Metric(name, float(value)) for name, value in sorted(body.get("metrics", {}).items())],
        create_time=event.head.time,
    )
