"""`animus.orchestrator.v1.RunStreamService`: following runs as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from sqlalchemy import Engine

from animus.orchestrator.v1 import run_stream_pb2 as pb
from animus.orchestrator.v1 import run_stream_pb2_grpc as pb_grpc
from animus_kit.db.engine import transaction
from animus_kit.names import parse
from animus_kit.server.serve import Drain
from animus_orchestrator.domain import attempt as attempts
from animus_orchestrator.domain import run as run_rules
from animus_orchestrator.domain.errors import AttemptNotFound, RunNotFound, ServerDraining
from animus_orchestrator.domain.waiting import Why
from animus_orchestrator.service import convert
from animus_orchestrator.service.outlook import Outlook
from animus_orchestrator.store import logs, runs
from animus_orchestrator.store.listen import LOGS, RUN, Hub

POLL_SECONDS = 1.0
"""How long a lost notice may go unnoticed."""
READ_BYTES = 1 << 20
READERS = 4


class RunStreamService(pb_grpc.RunStreamServiceServicer):
    """Reads the database on a few threads; a watcher that waits holds none of them."""

    def __init__(self, engine: Engine, hub: Hub, drain: Drain, outlook: Outlook):
        self._engine = engine
        self._hub = hub
        self._drain = drain
        self._outlook = outlook
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="watch")

    async def WatchRun(self, request: pb.WatchRunRequest, _: Any) -> AsyncIterator[pb.WatchRunResponse]:
        ids = parse("projects/{project}/runs/{run}", request.name)
        uid = await self._read(lambda conn: runs.get_uid(conn, ids["project"], ids["run"]))
        if uid is None:
            raise RunNotFound(f"{request.name} does not exist", resource=("animus.dev/Run", request.name))
        seen, told = 0, _Told()
        with self._hub.subscribe(RUN, str(uid)) as news:
            while True:
                found = await self._read(partial(_changes, uid, request.name, seen, self._outlook, told))
                if found is not None:
                    seen, message = found
                    yield message
                    if message.final:
                        return
                    continue  # something may have changed while it was sent
                # Why a step waits changes without the step.
                if told.ready and (
                    message := await self._read(partial(_waits, uid, request.name, self._outlook, told))
                ):
                    yield message
                self._check_drain()
                await news.wait(POLL_SECONDS)

    async def ReadLogs(self, request: pb.ReadLogsRequest, _: Any) -> AsyncIterator[pb.ReadLogsResponse]:
        ids = parse("projects/{project}/runs/{run}/steps/{step}/attempts/{attempt}", request.name)
        number = convert.attempt_number(ids["attempt"])

        def find(conn: Any) -> Any | None:
            return number and runs.get_attempt(conn, ids["project"], ids["run"], ids["step"], number)

        row = await self._read(find)
        if not row:
            raise AttemptNotFound(f"{request.name} does not exist", resource=("animus.dev/Attempt", request.name))
        offset = request.offset_bytes
        with self._hub.subscribe(LOGS, f"{row.step_uid}/{number}") as news:
            while True:
                # The state before the bytes: what is terminal grows no more.
                row = await self._read(find)
                chunks = await self._read(partial(_chunks, row.step_uid, number, offset))
                for chunk in chunks:
                    gap = chunk.offset > offset
                    offset = chunk.offset + len(chunk.data)
                    yield pb.ReadLogsResponse(
                        offset_bytes=chunk.offset,
                        data=chunk.data,
                        stream=pb.ReadLogsResponse.STREAM_STDERR if chunk.stderr else pb.ReadLogsResponse.STREAM_STDOUT,
                        truncated=gap,
                    )
                if chunks:
                    continue
                if not request.follow or attempts.AttemptState(row.state) in attempts.TERMINAL:
                    yield pb.ReadLogsResponse(offset_bytes=offset, truncated=row.log_truncated, final=True)
                    return
                self._check_drain()
                await news.wait(POLL_SECONDS)

    def _check_drain(self) -> None:
        """A stream that ends without `final` was cut, and the caller calls again."""
        if self._drain.started:
            raise ServerDraining("this server is going down", retry_after=0.5)

    async def _read(self, query: Any) -> Any:
        def run() -> Any:
            with transaction(self._engine) as conn:
                return query(conn)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


class _Told:
    """What a watcher knows of READY steps: by uid, why each waits; None for one that has not waited yet."""

    def __init__(self) -> None:
        self.ready: dict[int, tuple[str, str] | None] = {}

    def news(self, steps: Iterable[Any], why: Mapping[int, Why]) -> list[Any]:
        """Those of the steps whose reason to wait is another than before."""
        changed = []
        for step in steps:
            if step.state != "READY":
                self.ready.pop(step.uid, None)
                continue
            one = why.get(step.uid)
            before, now = self.ready.get(step.uid), (one.reason, one.message) if one is not None else None
            self.ready[step.uid] = now
            if before != now:
                changed.append(step)
        return changed


def _changes(
    uid: int, name: str, since: int, outlook: Outlook, told: _Told, conn: Any
) -> tuple[int, pb.WatchRunResponse] | None:
    """What changed after a revision: the new revision and the message that tells it."""
    row = runs.changed_run(conn, uid, since)
    if row is None:
        return None
    steps = runs.changed_steps(conn, uid, since)
    outputs = runs.outputs(conn, [s.uid for s in steps])
    why = outlook.of_steps(conn, steps)
    told.news(steps, why)
    return row.revision, pb.WatchRunResponse(
        run=convert.run(row),
        steps=[convert.step(name, s, outputs.get(s.uid, []), why=why.get(s.uid)) for s in steps],
        final=run_rules.RunState(row.state) in run_rules.TERMINAL,
    )


def _waits(uid: int, name: str, outlook: Outlook, told: _Told, conn: Any) -> pb.WatchRunResponse | None:
    """READY steps that wait for another reason than the watcher was told."""
    ready = runs.ready_steps(conn, uid)
    why = outlook.of_steps(conn, ready)
    changed = told.news(ready, why)
    row = runs.changed_run(conn, uid, 0) if changed else None
    if row is None:
        return None
    return pb.WatchRunResponse(
        run=convert.run(row), steps=[convert.step(name, s, [], why=why.get(s.uid)) for s in changed]
    )


def _chunks(step_uid: int, number: int, offset: int, conn: Any) -> list[logs.Chunk]:
    return logs.read(conn, step_uid, number, offset, READ_BYTES)
