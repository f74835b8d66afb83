"""Blobs by digest from the catalog's blob listener, with the grant of one attempt.

Reads go on at the offset where a connection broke; writes ask how much is kept and go on there. Nothing that comes is
believed: who reads it hashes it (images/, trees.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus.catalog.v1 import agent_blob_pb2_grpc
from animus_agent.errors import BlobCorrupt, BlobError
from animus_kit import retry
from animus_kit.status import from_rpc_error

CHUNK_BYTES = 1 << 20
TRIES = 8
AWAY_SECONDS = 24 * 3600.0
# A result that was committed a moment ago reaches the catalog through the log: until then a grant names content that the
# project does not own yet, and the catalog's answer is the one for all that it will not show.
_NOT_YET = frozenset({"OUTSIDE_GRANT"})
# One chunk of 1 MiB over a slow link; a stream as a whole may take hours.
UNARY_SECONDS = 60.0
# For one message of a stream. A catalog whose store hangs goes on answering pings, so that the connection tells nothing.
IDLE_SECONDS = 120.0
LOOK_SECONDS = 1.0


class GrantedBlobs:
    """BlobSource and BlobSink of one attempt. `give_up` may raise, and is asked before every chunk and every retry, and now
    and then while a chunk does not come or go.

    While nobody answers at all it goes on trying for `away_seconds`: what a step has computed is not thrown away because
    the control plane is being repaired. Whoever waits longer for it than the attempt may last has it canceled.
    """

    def __init__(
        self,
        channel: Callable[[], grpc.Channel],
        grant: bytes,
        give_up: Callable[[], None] = lambda: None,
        wait: Callable[[float], None] = time.sleep,
        away_seconds: float = AWAY_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._grant = grant
        self._give_up = give_up
        self._wait = wait
        self._away_seconds = away_seconds
        self._monotonic = monotonic
        self._watchdog = _Watchdog(give_up, monotonic)

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        offset = 0
        tries = self._tries(f"read {digest}", _NOT_YET)
        while True:
            request = pb.ReadBlobRequest(
                grant=self._grant, container_digest=container_digest, digest=digest, offset_bytes=offset
            )
            call = self._stub().ReadBlob(request)
            try:
                for message in self._watchdog.messages(call):
                    self._give_up()
                    offset += len(message.data)
                    tries.start_over()
                    yield message.data
                return
            except grpc.RpcError as error:
                tries.failed(error)
            finally:
                call.cancel()

    def write(self, digest: str, size: int, read: Callable[[int, int], bytes]) -> None:
        tries = self._tries(f"write {digest}")
        offset = most = 0
        while True:
            try:
                return self._send(self._messages(digest, size, offset, read))
            except grpc.RpcError as error:
                tries.failed(error)
            try:
                kept = self._stub().StatBlob(
                    pb.StatBlobRequest(grant=self._grant, digest=digest), timeout=UNARY_SECONDS
                )
                if kept.complete:
                    return
                offset = kept.offset_bytes
                if offset > most:
                    most = offset
                    tries.start_over()
            except grpc.RpcError as error:
                tries.failed(error)

    def write_small(self, blobs: Mapping[str, bytes], manifests: Collection[str]) -> None:
        tries = self._tries(f"write {len(blobs)} small blobs")
        request = pb.WriteSmallBlobsRequest(
            grant=self._grant,
            blobs=[pb.SmallBlob(digest=digest, data=data) for digest, data in blobs.items()],
            manifest_digests=list(manifests),
        )
        while True:
            try:
                self._stub().WriteSmallBlobs(request, timeout=UNARY_SECONDS)
                return
            except grpc.RpcError as error:
                tries.failed(error)

    def seal(self, manifest_digest: str) -> None:
        tries = self._tries(f"seal {manifest_digest}")
        while True:
            try:
                request = pb.SealManifestRequest(grant=self._grant, digest=manifest_digest)
                self._stub().SealManifest(request, timeout=UNARY_SECONDS)
                return
            except grpc.RpcError as error:
                tries.failed(error)

    def _send(self, messages: Iterator[pb.WriteBlobRequest]) -> None:
        """Waits for the answer for as long as messages go. Raises grpc.RpcError."""
        moved = self._monotonic()

        def going() -> Iterator[pb.WriteBlobRequest]:
            nonlocal moved
            for message in messages:
                moved = self._monotonic()
                yield message

        call = self._stub().WriteBlob.future(going())
        try:
            while True:
                try:
                    return call.result(timeout=LOOK_SECONDS)
                except grpc.FutureTimeoutError:
                    self._give_up()
                    if self._monotonic() >= moved + IDLE_SECONDS:
                        call.cancel()
                        raise call from None
        finally:
            call.cancel()

    def _messages(
        self, digest: str, size: int, offset: int, read: Callable[[int, int], bytes]
    ) -> Iterator[pb.WriteBlobRequest]:
        data = read(CHUNK_BYTES, offset) if size > offset else b""
        yield pb.WriteBlobRequest(grant=self._grant, digest=digest, size_bytes=size, offset_bytes=offset, data=data)
        offset += len(data)
        while data and offset < size:
            self._give_up()
            data = read(CHUNK_BYTES, offset)
            offset += len(data)
            if data:
                yield pb.WriteBlobRequest(data=data)

    def _tries(self, what: str, passing: frozenset[str] = frozenset()) -> _Tries:
        return _Tries(what, passing, self._give_up, self._wait, self._monotonic, self._away_seconds)

    def _stub(self) -> Any:
        return agent_blob_pb2_grpc.AgentBlobServiceStub(self._channel())


class _Watchdog:
    """Cancels reads whose next message does not come: when the attempt is given up, and after IDLE_SECONDS. One thread for
    all of an attempt, while there are any."""

    def __init__(self, give_up: Callable[[], None], monotonic: Callable[[], float]) -> None:
        self._give_up, self._monotonic = give_up, monotonic
        self._lock = threading.Lock()
        self._since: dict[Any, float] = {}
        self._used = False
        self._running = False

    def messages(self, call: Any) -> Iterator[Any]:
        """What the call gives. How long whoever takes it is busy with each does not count."""
        while True:
            with self._waiting(call):
                message = next(call, None)
            if message is None:
                return
            yield message

    @contextmanager
    def _waiting(self, call: Any) -> Iterator[None]:
        with self._lock:
            self._since[call] = self._monotonic()
            self._used = True
            if not self._running:
                self._running = True
                threading.Thread(target=self._look, name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                del self._since[call]

    def _look(self) -> None:
        """Goes when nothing was waited for since its last look, which many small reads in a row do not let happen."""
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                if not self._used:
                    self._running = False
                    return
                self._used = bool(self._since)
                waiting = dict(self._since)
            try:
                self._give_up()
                late = self._monotonic() - IDLE_SECONDS
            except Exception:
                # Whoever waits is told by asking again.
                late = float("inf")
            for call, since in waiting.items():
                if since <= late:
                    call.cancel()


class _Tries:
    """How long nobody answered, how often one call failed otherwise, and whether it is worth another try."""

    def __init__(
        self,
        what: str,
        passing: frozenset[str],
        give_up: Callable[[], None],
        wait: Callable[[float], None],
        monotonic: Callable[[], float],
        away_seconds: float,
    ) -> None:
        self._what, self._passing = what, passing
        self._give_up, self._wait, self._monotonic = give_up, wait, monotonic
        self._away_seconds = away_seconds
        self.start_over()

    def start_over(self) -> None:
        """There was progress."""
        self._failures = 0
        self._delays = retry.backoff(0.2)
        self._away_since: float | None = None

    def failed(self, error: grpc.RpcError) -> None:
        """Waits before the next try. Raises BlobError, BlobCorrupt when there is to be none."""
        self._give_up()
        remote = from_rpc_error(error)
        if retry.is_transient(error):
            # For an outage the time counts; however often it was tried meanwhile says nothing about what comes after it.
            now = self._monotonic()
            if self._away_since is None:
                self._away_since = now
            again = now < self._away_since + self._away_seconds
        else:
            self._away_since = None
            self._failures += 1
            again = self._failures < TRIES and (_was_cut(error) or remote.reason in self._passing)
        if again:
            self._wait(next(self._delays))
            return
        kind = BlobCorrupt if remote.reason in ("DIGEST_MISMATCH", "SIZE_MISMATCH") else BlobError
        raise kind(f"{self._what}: {remote}", remote.reason or None) from error


def _was_cut(error: grpc.RpcError) -> bool:
    """A server that drains or a proxy that resets ends a stream so."""
    return error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]
