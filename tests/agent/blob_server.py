"""The catalog's blob listener for the agent's tests: what it is given stays in memory, and its streams can be cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from animus.catalog.v1 import agent_blob_pb2 as blob_pb
from animus.catalog.v1 import agent_blob_pb2_grpc
from animus_agent.testing import MemoryBlobs
from animus_kit.digest import sha256
from animus_kit.documents.contract import Grant, open_grant


class Blobs(agent_blob_pb2_grpc.AgentBlobServiceServicer):
    """AgentBlobService over MemoryBlobs. `cut` makes the next stream break after that many bytes, `cut_each` each write after
    its first message; `refuse` is what the next seals are answered with. `stall` has the next stream stand still after that
    many bytes; `stalls` tells of each whether the client ended it."""

    def __init__(self, blobs: MemoryBlobs, keys: Callable[[], list]) -> None:
        self._blobs, self._keys = blobs, keys
        self._partial: dict[str, bytes] = {}
        self.cut: int | None = None
        self.cut_each = False
        self.refuse: list[grpc.StatusCode] = []
        self.stall: int | None = None
        self.stalled = lambda: None
        self.stalls: list[bool] = []
        self.offsets: list[int] = []

    def _grant(self, envelope: bytes) -> Grant:
        return open_grant(envelope, self._keys(), "agents/node-1", datetime.now(UTC))

    def _stand_still(self, at: int, context) -> None:  # type: ignore[no-untyped-def]
        if self.stall is None or at < self.stall:
            return
        self.stall = None
        ended = threading.Event()
        context.add_callback(ended.set)
        self.stalled()
        self.stalls.append(ended.wait(20))
        context.abort(grpc.StatusCode.INTERNAL, "nobody ended it")

    def ReadBlob(self, request, context):  # type: ignore[no-untyped-def]
        self._grant(request.grant)
        self.offsets.append(request.offset_bytes)
        data = self._blobs.blobs.get(request.digest) or self._blobs.written.get(request.digest)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND")
        for at in range(request.offset_bytes, len(data), 65536):
            if self.cut is not None and at >= self.cut:
                self.cut = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            self._stand_still(at, context)
            yield blob_pb.ReadBlobResponse(data=data[at : at + 65536])

    def WriteBlob(self, requests, context):  # type: ignore[no-untyped-def]
        first = next(requests)
        self._grant(first.grant)
        self.offsets.append(first.offset_bytes)
        data = self._partial.get(first.digest, b"")[: first.offset_bytes] + first.data
        if self.cut_each and len(data) < first.size_bytes:
            self._partial[first.digest] = data
            context.abort(grpc.StatusCode.CANCELLED, "cut")
        self._stand_still(len(data), context)
        for message in requests:
            data += message.data
            if self.cut is not None and len(data) >= self.cut:
                self.cut = None
                self._partial[first.digest] = data
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if sha256(data) != first.digest or len(data) != first.size_bytes:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        self._blobs.written[first.digest] = data
        return blob_pb.WriteBlobResponse(size_bytes=len(data))

    def WriteSmallBlobs(self, request, context):  # type: ignore[no-untyped-def]
        self._grant(request.grant)
        blobs = {one.digest: one.data for one in request.blobs}
        if any(sha256(data) != digest for digest, data in blobs.items()):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        self._blobs.write_small(blobs, request.manifest_digests)
        return blob_pb.WriteSmallBlobsResponse()

    def StatBlob(self, request, context):  # type: ignore[no-untyped-def]
        complete = request.digest in self._blobs.written
        return blob_pb.StatBlobResponse(complete=complete, offset_bytes=len(self._partial.get(request.digest, b"")))

    def SealManifest(self, request, context):  # type: ignore[no-untyped-def]
        if self.refuse:
            context.abort(self.refuse.pop(0), "refused")
        self._blobs.seal(request.digest)
        return blob_pb.SealManifestResponse()
