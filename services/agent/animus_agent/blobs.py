"""Blobs by digest from the catalog's blob listener, with the grant of one attempt.

Reads go on at the offset where a connection broke; writes ask how much is kept and go on there. Nothing that comes is
believed: who reads it hashes it (images/, trees.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
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


class GrantedBlobs:
    """BlobSource and BlobSink of one attempt. `give_up` may raise, and is asked before every chunk and every retry.

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

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        offset = 0
        tries = self._tries(f"read {digest}", _NOT_YET)
        while True:
            request = pb.ReadBlobRequest(
                grant=self._grant, container_digest=container_digest, digest=digest, offset_bytes=offset
            )
            call = self._stub().ReadBlob(request)
            try:
                for message in call:
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
                self._stub().WriteBlob(self._messages(digest, size, offset, read))
                return
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
