"""EventTailService and EventStreamService: streams over the log, on the aio listener.

Rows are read by a few threads of their own, so that a slow consumer holds a coroutine and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from sqlalchemy import Engine

from animus.audit.v1 import event_stream_pb2 as stream_pb
from animus.audit.v1 import event_stream_pb2_grpc as stream_rpc
from animus.audit.v1 import ingest_pb2 as pb
from animus.audit.v1 import ingest_pb2_grpc as rpc

from ..domain.errors import IndexBeyondLog
from ..follower import Follower
from ..store import events
from ..store.events import Filter, StoredEvent
from .mapping import event_to_proto, filter_from_proto

# Most events in one message, and most indices looked at for one message of a filtered stream.
_MAX_EVENTS = 500
_MAX_SCANNED = 20_000
# How often a stream with nothing to say says so.
KEEPALIVE_SECONDS = 10.0
# How late a reader hears that the log has moved on by events that are not for it. Each time it writes that down.
QUIET_SECONDS = 0.25


class LogReader:
    """Walks the log for one stream after the other."""

    def __init__(
        self, engine: Engine, follower: Follower, executor: Executor, keepalive_seconds: float = KEEPALIVE_SECONDS
    ):
        self._engine = engine
        self._follower = follower
        self._executor = executor
        self._keepalive_seconds = keepalive_seconds

    async def walk(self, start: int, where: Filter) -> AsyncIterator[tuple[list[StoredEvent], int]]:
        """Yields (events, next index) until the process ends; without events to tell that it is alive or has moved on, and once when
        it has come to the end of the log.

        Raises IndexBeyondLog."""
        now = asyncio.get_running_loop().time
        size = await self._call(self._size)
        if start > size:
            raise IndexBeyondLog(start, size)
        at, at_end = start, False
        # Since when it has moved on without telling.
        quiet_since: float | None = None
        while not self._follower.stopping:
            if at < size:
                found, at = await self._next(where, at, size)
                size = max(size, at)
                if found or not at_end:
                    quiet_since = None
                    yield found, at
                elif quiet_since is None:
                    quiet_since = now()
            elif not at_end or (quiet_since is not None and now() >= quiet_since + QUIET_SECONDS):
                at_end, quiet_since = True, None
                yield [], at
            else:
                left = self._keepalive_seconds if quiet_since is None else quiet_since + QUIET_SECONDS - now()
                size = max(size, await self._follower.wait_beyond(size, max(left, 0.0)))
                at_end = at_end and (at < size or quiet_since is not None)

    async def _next(self, where: Filter, at: int, size: int) -> tuple[list[StoredEvent], int]:
        recent = self._follower.recent
        # It may not have come as far as what this stream has heard of.
        found = recent.after(at, where) if recent.end >= size else None
        return found or await self._call(self._scan, where, at, min(size, at + _MAX_SCANNED))

    async def _call(self, read: Callable, *args):
        return await asyncio.get_running_loop().run_in_executor(self._executor, read, *args)

    def _size(self) -> int:
        with self._engine.connect() as conn:
            return events.log_size(conn)

    def _scan(self, where: Filter, start: int, end: int) -> tuple[list[StoredEvent], int]:
        with self._engine.connect() as conn:
            page = events.scan(conn, where, start=start, end=end, limit=_MAX_EVENTS)
        return page.events, (page.events[-1].index + 1 if page.more else end)


class EventTailService(rpc.EventTailServiceServicer):
    def __init__(self, reader: LogReader):
        self._reader = reader

    async def TailEvents(self, request: pb.TailEventsRequest, context) -> AsyncIterator[pb.TailEventsResponse]:
        async for found, next_index in self._reader.walk(request.from_index, Filter(types=tuple(request.types))):
            yield pb.TailEventsResponse(
                events=[pb.LogEvent(index=e.index, envelope=e.envelope, payload=e.payload, salt=e.salt) for e in found],
                next_index=next_index,
            )


class EventStreamService(stream_rpc.EventStreamServiceServicer):
    def __init__(self, reader: LogReader):
        self._reader = reader

    async def WatchProjectEvents(
        self, request: stream_pb.WatchProjectEventsRequest, context
    ) -> AsyncIterator[stream_pb.WatchProjectEventsResponse]:
        where = filter_from_proto(request.filter, project=request.parent)
        async for found, next_index in self._reader.walk(request.from_index, where):
            yield stream_pb.WatchProjectEventsResponse(
                events=[event_to_proto(event) for event in found], next_index=next_index
            )
