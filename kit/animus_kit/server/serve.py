"""One process: its listeners, its background loops, its end.

Sync listeners serve unary calls on a bounded pool; aio listeners serve whatever streams, all on one event loop in a
thread of its own. Health answers from a pool of its own, metrics from a thread of theirs, so that a full pool still
says that it lives. SIGTERM: NOT_SERVING, no new calls, streams are asked to end, then the rest is cut after a grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from animus_kit.log import get_logger
from animus_kit.server import authz, metrics
from animus_kit.server.door import Door
from animus_kit.server.ending import Ending
from animus_kit.server.interceptors import AioInterceptor, SyncInterceptor
from animus_kit.server.pool import Pool
from animus_kit.tls import TlsFiles, server_credentials

log = get_logger(__name__)

Register = Callable[[Any], None]
"""Adds a servicer, for example ``lambda server: add_EventServiceServicer_to_server(servicer, server)``."""

WORKERS = 16
STREAMS = 4096
"""Calls that an aio listener serves at once, where nothing else is asked for; one more is refused, not queued."""
_MOST_CALLS = 10_000
"""Which are on their way in or out: a bound on memory. The interceptors refuse far earlier, and no health check."""
GRACE_SECONDS = 10.0
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 20 s (animus_kit.channel); below half of that they are told to calm down.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # Peers are known by certificate; gRPC's own bandwidth probes count as pings, and cut idle connections otherwise.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    # As much as the gateway takes in headers: what it lets through is answered by us, and not by gRPC.
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.absolute_max_metadata_size", 80 * 1024),
    # Two processes must not share a port by accident.
    ("grpc.so_reuseport", 0),
)


class Task(Protocol):
    """A loop beside the handlers: a sequencer, a tail, a sweep."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Drain:
    """Tells endless streams that the process ends."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._event = loop, asyncio.Event()

    def _set(self) -> None:
        if self._loop is not None and self._event is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    @property
    def started(self) -> bool:
        return self._event is not None and self._event.is_set()

    async def wait(self) -> None:
        """Returns when the process begins to end. Only on the listeners' loop."""
        assert self._event is not None, "the process has not started"
        await self._event.wait()


@dataclass
class _Listener:
    name: str
    listen: str
    tls: TlsFiles
    door: Door
    register: tuple[Register, ...]
    aio: bool
    require_client: bool
    workers: int = 0
    streams: int = 0
    port: int = 0
    server: Any = None
    health: Any = None


class _Recorder:
    """Passes registrations on to a gRPC server and remembers the methods."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for name, handler in handlers.items():
            self.methods[f"/{service}/{name}"] = handler
        self._server.add_registered_method_handlers(service, handlers)

    @property
    def services(self) -> list[str]:
        return sorted({method.split("/")[1] for method in self.methods})


class _Health(health_pb2_grpc.HealthServicer):
    """Check only, on a pool of its own; Watch is for aio listeners."""

    def __init__(self) -> None:
        self.status: dict[str, int] = {}

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        status = self.status.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)


_Health.Check.experimental_thread_pool = ThreadPoolExecutor(2, thread_name_prefix="health")  # type: ignore[attr-defined]


@dataclass
class Process:
    """Everything that one process serves and runs. Build it, then serve()."""

    service: str
    metrics_listen: str = ""
    reflection: bool = False
    grace: float = GRACE_SECONDS
    drain: Drain = field(default_factory=Drain)
    _listeners: list[_Listener] = field(default_factory=list)
    _tasks: list[Task] = field(default_factory=list)
    _coroutines: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _running: list[asyncio.Task[None]] = field(default_factory=list)
    _stop: Ending = field(default_factory=Ending)
    _stopped: bool = False

    def sync(self, listen: str, tls: TlsFiles, door: Door, *register: Register, workers: int = WORKERS) -> Process:
        """Adds a listener for unary calls at host:port."""
        self._listeners.append(_Listener("sync", listen, tls, door, register, False, True, workers=workers))
        return self

    def aio(
        self,
        listen: str,
        tls: TlsFiles,
        door: Door,
        *register: Register,
        name: str = "aio",
        require_client: bool = True,
        streams: int = STREAMS,
    ) -> Process:
        """Adds a listener for calls that stream. name tells listeners apart in port(). streams: served at once."""
        self._listeners.append(_Listener(name, listen, tls, door, register, True, require_client, streams=streams))
        return self

    def task(self, *tasks: Task) -> Process:
        """Adds background loops, started after the listeners and stopped before them."""
        self._tasks.extend(tasks)
        return self

    def coroutine(self, *functions: Callable[[], Coroutine[Any, Any, None]]) -> Process:
        """Adds coroutines that run on the listeners' loop until the process ends, when they are canceled."""
        self._coroutines.extend(functions)
        return self

    def port(self, name: str) -> int:
        """The port that a started listener has; for tests, which listen on port 0."""
        return next(listener.port for listener in self._listeners if listener.name == name)

    def serve(self) -> None:
        """Runs until SIGTERM or SIGINT."""
        self._stop.on_signals(signal.SIGTERM, signal.SIGINT)
        self.start()
        self._stop.wait()
        self.stop()

    def start(self) -> None:
        """Starts everything; returns when every listener answers. Raises OSError when a port is taken."""
        self._start_loop()
        for listener in self._listeners:
            if listener.aio:
                self._on_loop(self._start_aio(listener))
            else:
                self._start_sync(listener)
        if self._coroutines:
            self._on_loop(self._start_coroutines())
        for task in self._tasks:
            task.start()
        if self.metrics_listen:
            metrics.serve(self.metrics_listen)
        ports = {listener.name: listener.port for listener in self._listeners}
        log.info("serving", service=self.service, **ports)

    def stop(self) -> None:
        """Drains and ends. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        log.info("draining", service=self.service)
        for listener in self._listeners:
            if listener.aio and listener.health is not None:
                self._on_loop(listener.health.enter_graceful_shutdown())
            elif listener.health is not None:
                for name in listener.health.status:
                    listener.health.status[name] = health_pb2.HealthCheckResponse.NOT_SERVING
        self.drain._set()
        for task in self._tasks:
            task.stop()
        stopping = [item.server.stop(self.grace) for item in self._listeners if item.server and not item.aio]
        for listener in self._listeners:
            if listener.aio and listener.server:
                self._on_loop(listener.server.stop(self.grace))
        for event in stopping:
            event.wait(self.grace + 1)
        self._stop_loop()

    def _start_loop(self) -> None:
        if not self._coroutines and not any(listener.aio for listener in self._listeners):
            return
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(ready.set)
            loop.run_forever()

        self._loop = loop
        self._thread = threading.Thread(target=run, name="aio", daemon=True)
        self._thread.start()
        ready.wait()

        async def bind() -> None:
            self.drain._bind(loop)

        self._on_loop(bind())

    def _stop_loop(self) -> None:
        if self._loop is None or self._thread is None:
            return

        async def cancel() -> None:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

        self._on_loop(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop = None

    def _on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(self.grace + 30)

    def _start_sync(self, item: _Listener) -> None:
        pool = Pool(item.workers)
        interceptor = SyncInterceptor(item.door, pool)
        server = grpc.server(pool, interceptors=[interceptor], options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        names = self._register(item, server)
        item.health = _Health()
        item.health.status = dict.fromkeys(["", *names], health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(item.health, server)
        item.port = self._bind(item, server)
        server.start()
        item.server = server

    async def _start_aio(self, item: _Listener) -> None:
        server = grpc.aio.server(
            interceptors=[AioInterceptor(item.door, item.streams)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=item.streams + _MOST_CALLS,
        )
        names = self._register(item, server)
        item.health = health.aio.HealthServicer()
        for name in ["", *names]:
            await item.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(item.health, server)
        if self.reflection:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        item.port = self._bind(item, server)
        await server.start()
        item.server = server

    def _register(self, item: _Listener, server: Any) -> list[str]:
        recorder = _Recorder(server)
        for register in item.register:
            register(recorder)
        authz.check_rows(item.door.rows, recorder.methods)
        if not item.aio:
            streams = [name for name, it in recorder.methods.items() if it.request_streaming or it.response_streaming]
            if streams:
                raise RuntimeError("these stream and belong on an aio listener: " + ", ".join(streams))
        return recorder.services

    def _bind(self, item: _Listener, server: Any) -> int:
        credentials = server_credentials(item.tls, require_client=item.require_client)
        try:
            port = server.add_secure_port(item.listen, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {item.listen}: {error}") from error
        if port == 0:
            raise OSError(f"cannot listen on {item.listen}")
        return port

    async def _start_coroutines(self) -> None:
        for function in self._coroutines:
            self._running.append(asyncio.create_task(self._guarded(function)))

    async def _guarded(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A loop that dies would be missed by nobody: it is logged and the process ends, to be started again."""
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await function()
                return
        except Exception as error:
            log.exception("a background loop failed; ending", error=repr(error))
            self._stop.set()
