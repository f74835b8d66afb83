"""Get, List, Create and Update of datasets, environments, experiments and models, which four services share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from animus_catalog.domain.entry import COLLECTIONS, Entry, update
from animus_catalog.service.convert import description, ids, timestamp
from animus_catalog.store import entries as store
from animus_catalog.store import events, projects
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.server.context import current
from animus_kit.server.idempotency import once


class Entries:
    """The entries of one noun. message: the proto class, for example Dataset."""

    def __init__(self, engine: sa.Engine, clock: Clock, noun: str, message: type[Any]):
        self._engine = engine
        self._clock = clock
        self._noun = noun
        self._message = message
        self._pattern = "projects/{project}/" + COLLECTIONS[noun] + "/{id}"

    def get(self, name: str) -> Any:
        project, id = ids(self._pattern, name)
        with transaction(self._engine) as conn:
            return self._answer(store.get(conn, self._noun, project, id))

    def page(self, request: Any) -> tuple[Sequence[Any], str]:
        (project,) = ids("projects/{project}", request.parent)
        with transaction(self._engine) as conn:
            found, token = store.page(conn, self._noun, project, request)
            if not found:
                projects.get(conn, project)  # nothing in it, and no such project, are two answers
        return [self._answer(entry) for entry in found], token

    def create(self, request: Any, id: str, resource: Any) -> Any:
        ctx = current()
        (project,) = ids("projects/{project}", request.parent)
        now = self._clock.now()
        entry = Entry(self._noun, project, id, description(resource), ctx.subject, now, now)

        def act() -> Any:
            projects.writable(conn, project)
            store.create(conn, entry)
            events.entry(conn, ctx, "created", entry)
            return self._answer(entry)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, self._message, act)

    def update(self, request: Any, resource: Any) -> Any:
        ctx = current()
        project, id = ids(self._pattern, resource.name)

        def act() -> Any:
            projects.writable(conn, project)
            entry = store.get(conn, self._noun, project, id, lock=True)
            changed = update(entry, description(resource), request.update_mask.paths, resource.etag, self._clock.now())
            store.save(conn, changed)
            events.entry(conn, ctx, "updated", changed)
            return self._answer(changed)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, self._message, act)

    def with_version(self, conn: sa.Connection, entry: Entry) -> Entry:
        """Counts one version more. The entry was read with lock."""
        counted = replace(entry, latest=entry.latest + 1, revision=entry.revision + 1, update_time=self._clock.now())
        store.save(conn, counted)
        return counted

    def _answer(self, entry: Entry) -> Any:
        made = self._message(
            name=entry.name,
            display_name=entry.description.display_name,
            description=entry.description.description,
            labels=entry.description.labels,
            creator=entry.creator,
            create_time=timestamp(entry.create_time),
            update_time=timestamp(entry.update_time),
            etag=entry.etag,
        )
        if entry.latest:
            made.latest_version = entry.latest_version
        return made
