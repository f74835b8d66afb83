"""The door, adapted to gRPC's two servers. No logic here: it stands in door.py, once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from animus_kit import channel, trace
from animus_kit.errors import DeadlineExceeded, ResourceExhausted
from animus_kit.server import metrics
from animus_kit.server.authz import ACCESS_DEADLINE_SECONDS, PolicyUnavailable, Row
from animus_kit.server.context import CallContext, call, maybe_current
from animus_kit.server.door import DEFAULT_DEADLINE_SECONDS, Door, Malformed, is_nodes_fault
from animus_kit.server.pool import Pool
from animus_kit.server.vigil import Vigil
from animus_kit.tls import Peer

# Answered without the door: what they tell is no secret, and the listener's CA has been checked by the handshake.
OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.")
FIRST_MESSAGE_SECONDS = 30.0
"""A stream that says nothing is admitted by nobody, and holds its place no longer than this."""
NODE_CALLS = 128
"""That one node may have open on a listener: four for each attempt are usual, and whoever holds a node must not be able to
take the places of all others."""
_DOOR_THREADS = 8


def _safely(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except Exception:  # protobuf raises DecodeError, and other types for other damage
            return Malformed()

    return parse


@contextlib.contextmanager
def _measured(method: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that tells the code of a failure."""
    codes = ["OK"]
    started = time.monotonic()
    metrics.RPCS_IN_FLIGHT.labels(method).inc()
    try:
        yield lambda code: codes.__setitem__(0, code)
    finally:
        metrics.RPCS_IN_FLIGHT.labels(method).dec()
        metrics.RPC_SECONDS.labels(method, codes[0]).observe(time.monotonic() - started)


def _remaining(context: Any) -> float:
    given = context.time_remaining()
    return DEFAULT_DEADLINE_SECONDS if given is None else max(min(given, 3600.0), 0.0)


class SyncInterceptor(grpc.ServerInterceptor):
    """For the sync listener, which serves unary calls only."""

    def __init__(self, door: Door, pool: Pool) -> None:
        """pool: the listener's. Half of it may wait for other processes (animus_kit.channel)."""
        self._door = door
        self._pool = pool
        self._outgoing = threading.BoundedSemaphore(max(1, pool.workers // 2))
        self._refusals = ThreadPoolExecutor(1, thread_name_prefix="refusals")

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        method = details.method
        if handler is None or method.startswith(OPEN_PREFIXES):
            return handler
        if handler.request_streaming or handler.response_streaming:
            raise RuntimeError(f"{method} streams and belongs on an aio listener")
        if self._pool.full:
            return self._refusal(method)
        door, behavior = self._door, handler.unary_unary

        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            with _measured(method) as failed:
                try:
                    row, ctx = door.open(method, context, _remaining(context))
                    ctx = door.identify(ctx, context)
                    token = call.set(ctx)
                    # The thread is the pool's own, so that nobody else sees it.
                    trace.outgoing.set(self._outgoing)
                    channel.actor.set(ctx.actor)
                    try:
                        door.admit(row, ctx, request)
                        return behavior(request, context)
                    finally:
                        call.reset(token)
                except Exception as error:
                    code, message, trailing = door.failure(error)
                    failed(code.name)
            context.set_trailing_metadata(trailing)
            context.abort(code, message)

        return grpc.unary_unary_rpc_method_handler(
            serve, _safely(handler.request_deserializer), handler.response_serializer
        )

    def _refusal(self, method: str) -> Any:
        """On a thread of its own, as the pool has none left; as a stream, so that it does not wait for the request."""

        def refuse(_: Any, context: grpc.ServicerContext) -> Any:
            with _measured(method) as failed:
                given = dict(context.invocation_metadata()).get(trace.REQUEST_ID)
                trace.request_id.set(trace.accept_request_id(given if isinstance(given, str) else None))
                error = ResourceExhausted("this process has as many calls as it can serve in time", retry_after=0.5)
                code, message, trailing = self._door.failure(error)
                failed(code.name)
            context.set_trailing_metadata(trailing)
            context.abort(code, message)

        refuse.experimental_thread_pool = self._refusals  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(refuse)


class AioInterceptor(grpc.aio.ServerInterceptor):
    """For aio listeners. What may block (keys, policy, denial events) runs on a small pool, never on the loop."""

    def __init__(self, door: Door, streams: int) -> None:
        """streams: calls that are served at once."""
        self._door = door
        self._streams = streams
        self._open = 0
        self._pool = ThreadPoolExecutor(_DOOR_THREADS, thread_name_prefix="door")
        # Those who come in do not wait for those who are in.
        self._looks = asyncio.Semaphore(_DOOR_THREADS // 2)
        self._of_nodes: Counter[str] = Counter()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        method = details.method
        if handler is None or method.startswith(OPEN_PREFIXES):
            return handler
        parse, write = _safely(handler.request_deserializer), handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            serve = self._streaming(method, handler.stream_stream, many_requests=True)
            return grpc.stream_stream_rpc_method_handler(serve, parse, write)
        if handler.response_streaming:
            serve = self._streaming(method, handler.unary_stream, many_requests=False)
            return grpc.unary_stream_rpc_method_handler(serve, parse, write)
        if handler.request_streaming:
            serve = self._answering(method, handler.stream_unary, many_requests=True)
            return grpc.stream_unary_rpc_method_handler(serve, parse, write)
        serve = self._answering(method, handler.unary_unary, many_requests=False)
        return grpc.unary_unary_rpc_method_handler(serve, parse, write)

    def _answering(self, method: str, behavior: Any, *, many_requests: bool) -> Any:
        async def serve(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with _measured(method) as failed:
                try:
                    entered = self._entered(method, request, context, many_requests, streams=many_requests)
                    async with entered as (admitted, vigil):
                        answer = behavior(admitted, context)
                        return await (answer if vigil is None else vigil.wait(answer))
                except Exception as error:
                    code, message, trailing = self._door.failure(error)
                    failed(code.name)
                    await self._note(error)
            await context.abort(code, message, trailing)

        return serve

    def _streaming(self, method: str, behavior: Any, *, many_requests: bool) -> Any:
        async def serve(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            with _measured(method) as failed:
                try:
                    async with (
                        self._entered(method, request, context, many_requests, streams=True) as (admitted, vigil),
                        contextlib.aclosing(behavior(admitted, context)) as answers,
                    ):
                        async for answer in answers if vigil is None else vigil.over(answers):
                            yield answer
                    return
                except Exception as error:
                    code, message, trailing = self._door.failure(error)
                    failed(code.name)
                    await self._note(error)
            await context.abort(code, message, trailing)

        return serve

    async def _note(self, error: Exception) -> None:
        ctx = maybe_current()
        if self._door.denials is not None and is_nodes_fault(ctx, error):
            await asyncio.get_running_loop().run_in_executor(self._pool, self._door.note, ctx, error)

    @contextlib.asynccontextmanager
    async def _entered(
        self, method: str, request: Any, context: Any, many_requests: bool, *, streams: bool
    ) -> AsyncIterator[tuple[Any, Vigil | None]]:
        """Passes the door: (the request, or the checked requests; the vigil over a person's stream)."""
        remaining = context.time_remaining()
        row, ctx = self._door.open(method, context, remaining)
        with self._place(ctx.peer):
            if ctx.peer.kind == "gateway":
                ctx = await asyncio.get_running_loop().run_in_executor(self._pool, self._door.identify, ctx, context)
            call.set(ctx)
            first = None if many_requests else request
            if many_requests and row.permission is not None:
                # It says what the call is about.
                first = await _first(request)
            if first is not None:
                await self._admit(row, ctx, first)
            admitted = self._checked(request, first) if many_requests else request
            if not streams or not ctx.subject:
                yield admitted, None
                return
            vigil = Vigil(self._look(row, ctx, first))
            try:
                yield admitted, vigil
            finally:
                vigil.close()

    @contextlib.contextmanager
    def _place(self, peer: Peer) -> Iterator[None]:
        if self._open >= self._streams:
            raise ResourceExhausted("this process has as many calls open as it can serve", retry_after=1.0)
        node = peer.name if peer.kind == "agent" else ""
        if node and self._of_nodes[node] >= NODE_CALLS:
            raise ResourceExhausted(f"{peer.label} has {NODE_CALLS} calls open here", retry_after=1.0)
        self._open += 1
        self._of_nodes[node] += 1
        try:
            yield
        finally:
            self._open -= 1
            self._of_nodes[node] -= 1
            if not self._of_nodes[node]:
                del self._of_nodes[node]

    async def _admit(self, row: Row, ctx: CallContext, request: Any) -> None:
        if row.permission is None:
            self._door.admit(row, ctx, request)
        else:
            await self._in_pool(self._door.admit, row, ctx, request)

    def _look(self, row: Row, ctx: CallContext, first: Any) -> Callable[[], Awaitable[None]]:
        """What a vigil asks. Keeps nothing of the message, which may hold the first bytes of an upload."""
        asks = row.permission is not None and first is not None
        project = row.project(first) if asks else None

        async def look() -> None:
            self._door.check_token(ctx)
            if not asks:
                return
            try:
                async with asyncio.timeout(ACCESS_DEADLINE_SECONDS), self._looks:
                    await self._in_pool(self._door.authorize, row, ctx, project)
            except TimeoutError:
                raise PolicyUnavailable("the policy service does not answer", retry_after=1.0) from None

        return look

    async def _in_pool(self, function: Callable[..., None], *args: Any) -> None:
        # With the call's context: policy is asked under its request id and within its deadline.
        context = contextvars.copy_context()
        await asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *args)

    async def _checked(self, requests: Any, admitted: Any = None) -> AsyncIterator[Any]:
        """admitted: the first one, where it was needed before. A handler that waits less long for it may do so."""
        if admitted is not None:
            yield admitted
        elif (first := await _first(requests)) is not None:
            self._door.check(first)
            yield first
        else:
            return
        async for request in requests:
            self._door.check(request)
            yield request


async def _first(requests: Any) -> Any:
    """The first message; None when there is none. Raises DeadlineExceeded."""
    try:
        return await asyncio.wait_for(anext(aiter(requests), None), FIRST_MESSAGE_SECONDS)
    except TimeoutError:
        raise DeadlineExceeded("the first message did not come") from None
