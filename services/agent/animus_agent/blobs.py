"""Blobs by digest from the catalog's blob listener, with the grant of one attempt.

Reads go on at the offset where a connection broke; writes ask how much is kept and go on there. Nothing that comes is
believed: who reads it hashes it (images/, trees.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from animus.catalog.v1 import agent_blob_pb2 as pb
from animus.catalog.v1 import agent_blob_pb2_grpc
from animus_agent.errors import BlobCorrupt, BlobError
from animus_kit import retry
from animus_kit.status import from_rpc_error

CHUNK_BYTES = 1 << 20
TRIES = 8
# A result that was committed a moment ago reaches the catalog through the log: until then a grant names content that the
# project does not own yet, and the catalog's answer is the one for all that it will not show.
_NOT_YET = frozenset({"OUTSIDE_GRANT"})
# One chunk of 1 MiB over a slow link; a stream as a whole may take hours.
UNARY_SECONDS = 60.0


class GrantedBlobs:
    """BlobSource and BlobSink of one attempt. `give_up` may raise, and is asked before every chunk and every retry."""

    def __init__(
        self,
        channel: Callable[[], grpc.Channel],
        grant: bytes,
        give_up: Callable[[], None] = lambda: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._channel = channel
        self._grant = grant
        self._give_up = give_up
        self._wait = wait

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        offset = 0
        delays = retry.backoff(0.2)
        failures = 0
        while True:
            request = pb.ReadBlobRequest(
                grant=self._grant, container_digest=container_digest, digest=digest, offset_bytes=offset
            )
            call = self._stub().ReadBlob(request)
            try:
                for message in call:
                    self._give_up()
                    offset += len(message.data)
                    failures = 0
                    yield message.data
                return
            except grpc.RpcError as error:
                failures += 1
                self._retry_or_raise(error, failures, delays, f"read {digest}", _NOT_YET)
            finally:
                call.cancel()

    def write(self, digest: str, size: int, read: Callable[[int, int], bytes]) -> None:
        delays = retry.backoff(0.2)
        failures = 0
        offset = 0
        while True:
            try:
                self._stub().WriteBlob(self._messages(digest, size, offset, read))
                return
            except grpc.RpcError as error:
                failures += 1
                self._retry_or_raise(error, failures, delays, f"write {digest}")
            try:
                kept = self._stub().StatBlob(
                    pb.StatBlobRequest(grant=self._grant, digest=digest), timeout=UNARY_SECONDS
                )
                if kept.complete:
                    return
                offset = kept.offset_bytes
            except grpc.RpcError as error:
                failures += 1
                self._retry_or_raise(error, failures, delays, f"stat {digest}")

    def seal(self, manifest_digest: str) -> None:
        delays = retry.backoff(0.2)
        failures = 0
        while True:
            try:
                request = pb.SealManifestRequest(grant=self._grant, digest=manifest_digest)
                self._stub().SealManifest(request, timeout=UNARY_SECONDS)
                return
            except grpc.RpcError as error:
                failures += 1
                self._retry_or_raise(error, failures, delays, f"seal {manifest_digest}")

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

    def _retry_or_raise(
        self,
        error: grpc.RpcError,
        failures: int,
        delays: Iterator[float],
        what: str,
        passing: frozenset[str] = frozenset(),
    ) -> None:
        self._give_up()
        remote = from_rpc_error(error)
        if failures < TRIES and (retry.is_transient(error) or _was_cut(error) or remote.reason in passing):
            self._wait(next(delays))
            return
        kind = BlobCorrupt if remote.reason in ("DIGEST_MISMATCH", "SIZE_MISMATCH") else BlobError
        raise kind(f"{what}: {remote}", remote.reason or None) from error

    def _stub(self) -> Any:
        return agent_blob_pb2_grpc.AgentBlobServiceStub(self._channel())


def _was_cut(error: grpc.RpcError) -> bool:
    """A server that drains or a proxy that resets ends a stream so."""
    return error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]
