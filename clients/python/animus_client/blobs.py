"""Bytes: uploads that skip what the project has, run in parallel and go on where they were cut; downloads that are checked."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from google.api import httpbody_pb2

from animus.catalog.v1 import agent_blob_pb2, blob_pb2
from animus_client.errors import ApiError, ClientError, NotFound, from_call

CHUNK_BYTES = 256 << 10
ASK_AT_ONCE = 5000
PARALLEL = 4
SMALL_BYTES = 64 << 10
"""Up to here blobs travel together: a call for each costs more than its bytes."""
TOGETHER_BYTES, TOGETHER = 512 << 10, 1000
"""What one call takes."""
TRANSFER_ATTEMPTS = 8

Progress = Callable[[int, int], object]
"""Called with (bytes done, bytes in all) as they change, from several threads."""


@dataclass(frozen=True)
class Source:
    """One blob to upload. open: a new binary file at its beginning, called once for each try."""

    digest: str
    size: int
    open: Callable[[], BinaryIO]

    @classmethod
    def of_bytes(cls, data: bytes) -> Source:
        return cls("sha256:" + hashlib.sha256(data).hexdigest(), len(data), lambda: io.BytesIO(data))

    @classmethod
    def of_file(cls, path: Path, digest: str, size: int) -> Source:
        return cls(digest, size, lambda: path.open("rb"))


@dataclass(frozen=True)
class Uploaded:
    """What an upload did. skipped: blobs that the project already owned."""

    sent: int
    skipped: int
    sent_bytes: int


class Blobs:
    def __init__(self, client: Any):
        self._client = client

    def missing(self, project: str, digests: Iterable[str]) -> set[str]:
        """Which of them the project does not own."""
        found: set[str] = set()
        wanted = sorted(set(digests))
        for start in range(0, len(wanted), ASK_AT_ONCE):
            request = blob_pb2.ListMissingBlobsRequest(parent=project, digests=wanted[start : start + ASK_AT_ONCE])
            found.update(self._client.call(self._client.blobs_api.ListMissingBlobs, request).missing_digests)
        return found

    def upload(self, project: str, sources: Sequence[Source], progress: Progress | None = None) -> Uploaded:
        """Uploads those that the project lacks. Raises ApiError, ClientError (CONTENT_CHANGED)."""
        by_digest = {source.digest: source for source in sources}
        missing = self.missing(project, by_digest)
        wanted = [source for digest, source in by_digest.items() if digest in missing]
        whole = sum(source.size for source in wanted)
        meter = _Meter(whole, progress)
        small = _together([source for source in wanted if source.size <= SMALL_BYTES])
        large = [source for source in wanted if source.size > SMALL_BYTES]
        with ThreadPoolExecutor(PARALLEL) as pool:
            begun = [pool.submit(self._upload_small, project, sources, meter) for sources in small]
            begun += [pool.submit(self._upload_one, project, source, meter) for source in large]
            for future in begun:
                future.result()
        return Uploaded(len(wanted), len(by_digest) - len(wanted), whole)

    def _upload_small(self, project: str, sources: Sequence[Source], meter: _Meter) -> None:
        blobs = [agent_blob_pb2.SmallBlob(digest=source.digest, data=_read_whole(source)) for source in sources]
        request = blob_pb2.UploadSmallBlobsRequest(parent=project, blobs=blobs)
        try:
            self._client.call(self._client.blobs_api.UploadSmallBlobs, request)
        except ApiError as error:
            if error.reason == "DIGEST_MISMATCH":
                raise ClientError("CONTENT_CHANGED", "a file changed while it was uploaded") from error
            raise
        for source in sources:
            meter.start(source.digest, source.size)

    def _upload_one(self, project: str, source: Source, meter: _Meter) -> None:
        attempt = 0
        offset = 0
        while True:
            attempt += 1
            meter.start(source.digest, offset)
            token = self._client.token()
            try:
                call = self._client.blobs_api.UploadBlob
                call(_messages(project, source, offset, meter), timeout=3600)
                meter.start(source.digest, source.size)
                return
            except grpc.RpcError as error:
                failed = from_call(error)
                if failed.reason == "DIGEST_MISMATCH":
                    raise ClientError(
                        "CONTENT_CHANGED", f"a file changed while it was uploaded ({source.digest})"
                    ) from error
                if self._client.outlived(failed, token):
                    attempt = 0
                else:
                    self._client.pause(failed, attempt, TRANSFER_ATTEMPTS)
            offset = self._kept(project, source.digest)

    def _kept(self, project: str, digest: str) -> int:
        """Where an interrupted upload goes on."""
        try:
            request = blob_pb2.GetUploadRequest(parent=project, digest=digest)
            return self._client.call(self._client.blobs_api.GetUpload, request).offset_bytes
        except NotFound:
            return 0

    def read(self, project: str, digest: str) -> Iterator[bytes]:
        """The bytes of a blob. The last piece comes only when all of them were right: ClientError CONTENT_MISMATCH."""

        def ask(offset: int) -> Any:
            request = blob_pb2.DownloadBlobRequest(parent=project, digest=digest, offset_bytes=offset)
            return self._client.blobs_api.DownloadBlob(request, timeout=3600)

        return _checked(self._resumed(ask), digest)

    def read_all(self, project: str, digest: str, limit: int = 256 << 20) -> bytes:
        """A blob in memory. Raises ClientError TOO_LARGE beyond limit."""
        data = bytearray()
        for piece in self.read(project, digest):
            data += piece
            if len(data) > limit:
                raise ClientError("TOO_LARGE", f"more than {limit} bytes; read it in pieces")
        return bytes(data)

    def download(
        self, project: str, digest: str, target: Path, progress: Progress | None = None, size: int = 0
    ) -> None:
        """Into a file, which appears only when it is whole and right."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        done = 0
        try:
            with temporary.open("wb") as file:
                for piece in self.read(project, digest):
                    file.write(piece)
                    done += len(piece)
                    if progress:
                        progress(done, max(size, done))
            temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _resumed(self, ask: Callable[[int], Any]) -> Iterator[bytes]:
        offset = attempt = 0
        while True:
            token = self._client.token()
            try:
                for message in ask(offset):
                    attempt = 0
                    offset += len(message.data)
                    yield message.data
                return
            except grpc.RpcError as error:
                failed = from_call(error)
                if self._client.outlived(failed, token):
                    attempt = 0
                    continue
                attempt += 1
                self._client.pause(failed, attempt, TRANSFER_ATTEMPTS)


def _together(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Parts of what one call takes."""
    part: list[Source] = []
    size = 0
    for source in sources:
        if part and (size + source.size > TOGETHER_BYTES or len(part) == TOGETHER):
            yield part
            part, size = [], 0
        part.append(source)
        size += source.size
    if part:
        yield part


def _read_whole(source: Source) -> bytes:
    with source.open() as file:
        data = file.read(source.size + 1)
    if len(data) != source.size:
        raise ClientError("CONTENT_CHANGED", f"a file changed while it was uploaded ({source.digest})")
    return data


def _messages(project: str, source: Source, offset: int, meter: _Meter) -> Iterator[blob_pb2.UploadBlobRequest]:
    first = {"parent": project, "digest": source.digest, "size_bytes": source.size, "offset_bytes": offset}
    done = offset
    with source.open() as file:
        file.seek(offset)
        while True:
            data = file.read(CHUNK_BYTES)
            if not data and not first:
                return
            yield blob_pb2.UploadBlobRequest(**first, body=httpbody_pb2.HttpBody(data=data))
            first = {}
            done += len(data)
            meter.start(source.digest, done)


def _checked(pieces: Iterator[bytes], digest: str) -> Iterator[bytes]:
    """Holds one piece back, so that nobody mistakes a damaged stream for a whole one."""
    seen = hashlib.sha256()
    held = b""
    for piece in pieces:
        seen.update(piece)
        if held:
            yield held
        held = piece
    if "sha256:" + seen.hexdigest() != digest:
        raise ClientError("CONTENT_MISMATCH", f"what was downloaded is not {digest}")
    if held:
        yield held


class _Meter:
    """Bytes done over several transfers; a retry that goes back is counted back."""

    def __init__(self, whole: int, progress: Progress | None):
        self._whole = whole
        self._progress = progress
        self._done: dict[str, int] = {}

    def start(self, digest: str, done: int) -> None:
        self._done[digest] = done
        if self._progress:
            self._progress(sum(list(self._done.values())), self._whole)


__all__ = ["ApiError", "Blobs", "Source", "Uploaded"]
