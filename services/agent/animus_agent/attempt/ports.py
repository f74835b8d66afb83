"""What an attempt needs of the world, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from animus_agent import uids
from animus_agent.attempt.failure import Failure
from animus_agent.egress.rules import Ceiling
from animus_agent.gpu.pool import GpuPool
from animus_agent.images.cache import ImageCache
from animus_agent.images.manifest import BlobSource
from animus_agent.sandbox.driver import Driver
from animus_agent.sandbox.logs import Chunk, Cursor
from animus_agent.sandbox.quota import QuotaPool
from animus_agent.trees import TreeCache
from animus_kit.clock import Clock
from animus_kit.documents import dsse
from animus_kit.documents.result import OutputDigest
from animus_kit.documents.sandbox import Feature, HostFingerprint

__all__ = ["BlobSink", "BlobSource", "Point", "Ports", "Reporter", "Result", "Signer"]


SMALL_BLOBS = 64
SMALL_BYTES = 1 << 20


class BlobSink(Protocol):
    """Where outputs go. Repeating a call is harmless."""

    def write(self, digest: str, size: int, read: Callable[[int, int], bytes]) -> None:
        """Stores `size` bytes; `read(n, offset)` gives at most n. Raises BlobError; BlobCorrupt for other bytes."""

    def write_small(self, blobs: Mapping[str, bytes], manifests: Collection[str]) -> None:
        """Stores small blobs by their digests, at most SMALL_BLOBS of SMALL_BYTES together, and seals manifests among
        them or written before. Raises BlobError; BlobCorrupt for other bytes."""

    def seal(self, manifest_digest: str) -> None:
        """Declares a written blob to be an output's manifest. Raises BlobError."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row of /animus/metrics.jsonl."""

    name: str
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. Without a failure it succeeded."""

    failure: Failure | None
    exit_code: int | None = None
    outputs: tuple[OutputDigest, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    sandbox_report: bytes = b""
    provenance: bytes = b""
    log_size_bytes: int = 0


class Reporter(Protocol):
    """Takes news of one attempt, durably, with the cursors that it was read up to."""

    def state(self, state: str) -> None:
        """PREPARING, RUNNING or FINISHING."""

    def log(self, chunks: list[Chunk]) -> None: ...

    def log_cursor(self) -> Cursor: ...

    def points(self, first_index: int, points: list[Point], offset: int) -> None:
        """`offset`: how far the file was read."""

    def points_cursor(self) -> tuple[int, int]:
        """(number of points, offset in the file) so far."""

    def result(self, result: Result) -> None:
        """Once; a second result of the same attempt is ignored."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs provenance. `agent`: `agents/<id>`."""

    agent: str
    version: str
    key: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Ports:
    """All of it. `contract_keys`: those that may sign contracts now. `features`: what the canaries found."""

    driver: Driver
    images: ImageCache
    trees: TreeCache
    quota: QuotaPool
    source: BlobSource
    sink: BlobSink
    reporter: Reporter
    signer: Signer
    contract_keys: Callable[[], dsse.Keys]
    clock: Clock
    host: HostFingerprint
    features: tuple[Feature, ...]
    egress: Ceiling = Ceiling()
    gpus: GpuPool = field(default_factory=GpuPool)
    pause: Callable[[float], None] = time.sleep
    uid_block: int = uids.BLOCKS[0]
