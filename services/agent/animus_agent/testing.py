"""What tests and benchmarks of the agent share: a blob store in memory, tiny images, contracts, a reporter that listens.

Ships with the agent, because bench/, tests/agent/ and tests/system/ all use it; nothing of the agent imports it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform as platforms
import tarfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.directory import AttemptDirectory, identifier
from animus_agent.attempt.ports import Point, Ports, Result, Signer
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import BlobCorrupt, BlobError
from animus_agent.gpu.pool import GpuPool
from animus_agent.images.cache import ImageCache
from animus_agent.sandbox.driver import Driver
from animus_agent.sandbox.logs import Chunk, Cursor
from animus_agent.sandbox.quota import QuotaPool
from animus_agent.trees import TreeCache
from animus_kit.clock import Clock, SystemClock
from animus_kit.digest import sha256
from animus_kit.documents import action as actions
from animus_kit.documents import contract as contracts
from animus_kit.documents import dsse, manifest
from animus_kit.documents.sandbox import Feature, HostFingerprint
from animus_kit.documents.values import Parameter

PLATFORM = "linux/amd64"
EPOCH = actions.DEFAULT_SOURCE_DATE_EPOCH
AGENT = "agents/node-1"
PROJECT = "projects/demo"


class MemoryBlobs:
    """BlobSource and BlobSink at once. `reads` and `written` are for assertions."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.written: dict[str, bytes] = {}
        self.sealed: list[str] = []
        self._lock = threading.Lock()

    def put(self, data: bytes) -> str:
        digest = sha256(data)
        self.blobs[digest] = data
        return digest

    def put_tree(self, files: dict[str, bytes | str], profile: str = manifest.DATASET) -> str:
        """A manifest of these files; a str is a symlink's target."""
        entries = []
        for path, content in files.items():
            if isinstance(content, str):
                entries.append(manifest.Entry(path, manifest.SYMLINK, target=content))
            else:
                self.put(content)
                digest = hashlib.sha256(content).hexdigest()
                executable = profile == manifest.CODE and content.startswith(b"#!")
                kind = manifest.EXECUTABLE if executable else manifest.FILE
                entries.append(manifest.Entry(path, kind, len(content), digest))
        return self.put(manifest.dumps(entries, profile))

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        with self._lock:
            self.reads.append(digest)
        if digest not in self.blobs:
            raise BlobError(f"no blob {digest}")
        data = self.blobs[digest]
        return iter([data[at : at + (1 << 16)] for at in range(0, len(data), 1 << 16)])

    def write(self, digest: str, size: int, read: Callable[[int, int], bytes]) -> None:
        data = bytearray()
        while len(data) < size:
            chunk = read(1 << 20, len(data))
            if not chunk:
                break
            data += chunk
        if len(data) != size or sha256(bytes(data)) != digest:
            raise BlobCorrupt(f"other bytes than {digest}")
        with self._lock:
            self.written[digest] = bytes(data)

    def write_small(self, blobs: Mapping[str, bytes], manifests: Collection[str]) -> None:
        for digest, data in blobs.items():
            self.write(digest, len(data), lambda size, offset, data=data: data[offset : offset + size])
        for digest in manifests:
            self.seal(digest)

    def seal(self, manifest_digest: str) -> None:
        if manifest_digest not in self.written:
            raise BlobError(f"no manifest {manifest_digest}")
        self.sealed.append(manifest_digest)


def layer(entries: dict[str, bytes | str | tarfile.TarInfo | None]) -> bytes:
    """An uncompressed tar layer: bytes are files (executable under bin/), str symlinks, None folders, TarInfo as is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in entries.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size, info.mode = len(content), 0o755 if "bin/" in name else 0o644
                tar.addfile(info, io.BytesIO(content))
                continue
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
    return buffer.getvalue()


def put_image(blobs: MemoryBlobs, *layers: bytes, compress: Callable[[bytes], bytes] | None = None) -> str:
    """Stores an OCI image and returns its manifest's digest."""
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
    stored = [compress(data) if compress else data for data in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [sha256(data) for data in layers]},
    }
    config_bytes = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": blobs.put(config_bytes),
            "size": len(config_bytes),
        },
        "layers": [{"mediaType": kind, "digest": blobs.put(data), "size": len(data)} for data in stored],
    }
    return blobs.put(json.dumps(document).encode())


def busybox_layer() -> bytes:
    """A root file system of one static program, from the host's own busybox."""
    entries: dict[str, bytes | str | tarfile.TarInfo | None] = {
        "bin": None,
        "bin/busybox": Path("/bin/busybox").read_bytes(),
        "etc": None,
        "etc/passwd": b"nobody:x:65532:65532::/tmp:/bin/sh\n",
    }
    names = "sh true false cat echo sleep dd ln mkdir mkfifo ls id touch head env yes kill mount mknod readlink stat wc"
    entries |= {f"bin/{name}": "busybox" for name in names.split()}
    return layer(entries)


class MemoryReporter:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.chunks: list[Chunk] = []
        self.found: list[Point] = []
        self.results: list[Result] = []
        self._points = (0, 0)

    @property
    def text(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks)

    def state(self, state: str) -> None:
        self.states.append(state)

    def log(self, chunks: list[Chunk]) -> None:
        self.chunks += chunks

    def log_cursor(self) -> Cursor:
        return self.chunks[-1].after if self.chunks else Cursor()

    def points(self, first_index: int, points: list[Point], offset: int) -> None:
        self.found += points
        self._points = (first_index + len(points), offset)

    def points_cursor(self) -> tuple[int, int]:
        return self._points

    def result(self, result: Result) -> None:
        self.results.append(result)


@dataclass
class World:
    """One node without its loop, and a control plane that signs what it is asked to."""

    root: Path
    driver: Driver
    quota: QuotaPool
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    clock: Clock = field(default_factory=SystemClock)
    contract_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    attestation_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    image: str = ""
    counter: int = 0
    egress: Ceiling = Ceiling()
    gpus: GpuPool = field(default_factory=GpuPool)
    features: tuple[str, ...] = ("network-none",)

    def __post_init__(self) -> None:
        self.images = ImageCache(self.root / "images")
        self.trees = TreeCache(self.root / "trees")
        (self.root / "attempts").mkdir(exist_ok=True, mode=0o711)
        self.image = self.image or put_image(self.blobs, busybox_layer())

    def host(self) -> HostFingerprint:
        return HostFingerprint(
            platform=PLATFORM,
            kernel=platforms.release(),
            cpu_model="test",
            gpus=(),
            libraries=self.driver.versions(),
        )

    def ports(self, reporter: MemoryReporter) -> Ports:
        return Ports(
            driver=self.driver,
            images=self.images,
            trees=self.trees,
            quota=self.quota,
            source=self.blobs,
            sink=self.blobs,
            reporter=reporter,
            signer=Signer(AGENT, "0.1.0", self.attestation_key),
            contract_keys=lambda: [self.contract_key.public_key()],
            clock=self.clock,
            host=self.host(),
            features=tuple(Feature(name=name, enforced=True, detail="") for name in self.features),
            egress=self.egress,
            gpus=self.gpus,
        )

    def order(self, *command: str, **changes) -> tuple[str, bytes, bytes]:  # type: ignore[no-untyped-def]
        """(attempt, signed contract, signed grant). `changes`: inputs={name: digest}, code, outputs, parameters, env,
        timeout, grace, limits, memory, cpu, network, isolation, gpus (UUIDs), action (replaces fields), contract (replaces fields)."""
        self.counter += 1
        attempt = f"{PROJECT}/runs/r1/steps/step-{self.counter}/attempts/1"
        inputs: dict[str, str] = changes.get("inputs", {})
        code = changes.get("code")
        network = changes.get("network", actions.NO_NETWORK)
        gpus = tuple(changes.get("gpus", ()))
        action = actions.Action(
            image=changes.get("image", self.image),
            platform=PLATFORM,
            command=command,
            args=(),
            environment=actions.process_environment(changes.get("env", {}).items(), 1, EPOCH, network),
            parameters=tuple(
                Parameter(name=name, value=value) for name, value in changes.get("parameters", {}).items()
            ),
            inputs=tuple(actions.Input(name=name, manifest=digest) for name, digest in inputs.items()),
            code=code,
            outputs=tuple(actions.Output(name=name, type="file") for name in changes.get("outputs", ())),
            threads=1,
            network=network,
            secrets=(),
            isolation=changes.get("isolation", actions.DEFAULT_ISOLATION),
            source_date_epoch=EPOCH,
            **changes.get("action", {}),
        )
        now = datetime.now(UTC)
        grant = contracts.Grant(
            id=f"00000000-0000-4000-8000-{self.counter:012d}",
            project=PROJECT,
            attempt=attempt,
            agent=AGENT,
            readable_manifests=tuple(sorted({*inputs.values(), *([code] if code else [])})),
            readable_images=(action.image,),
            write_bytes=1 << 30,
            write_blobs=1000,
            issue_time=now,
            expire_time=now + timedelta(hours=1),
        )
        fields = {
            "project": PROJECT,
            "attempt": attempt,
            "number": 1,
            "agent": AGENT,
            "plan_digest": sha256(b"plan"),
            "recipe_digest": action.digest,
            "action_digest": action.digest,
            "action": action,
            "grant_digest": grant.digest,
            "decision_digest": sha256(b"decision"),
            "inputs": tuple(
                contracts.Material(name=n, kind="dataset", resource=f"{PROJECT}/datasets/{n}/versions/v1", manifest=d)
                for n, d in inputs.items()
            ),
            "code": contracts.NamedDigest(resource=f"{PROJECT}/codeSnapshots/c1", digest=code) if code else None,
            "environment_lock": contracts.NamedDigest(
                resource=f"{PROJECT}/environments/e/locks/l1", digest=sha256(b"lock")
            ),
            "resources": contracts.Resources(
                cpu_millis=changes.get("cpu", 1000), memory_bytes=changes.get("memory", 128 << 20), gpu=len(gpus)
            ),
            "gpu_uuids": gpus or None,
            "limits": changes.get("limits") or limits(),
            "lease_seconds": 30,
            "timeout_seconds": changes.get("timeout", 30),
            "termination_grace_seconds": changes.get("grace", 1),
            "required_capabilities": (),
            "issue_time": now,
            **changes.get("contract", {}),
        }
        contract = contracts.Contract(**fields)
        return (
            attempt,
            dsse.sign(contract.to_bytes(), contracts.Contract.NOUN, self.contract_key),
            dsse.sign(grant.to_bytes(), contracts.Grant.NOUN, self.contract_key),
        )

    def attempt(self, order: tuple[str, bytes, bytes], reporter: MemoryReporter | None = None) -> Attempt:
        """Accepts an order as the loop would."""
        directory = AttemptDirectory(self.root / "attempts" / identifier(order[0]))
        if not directory.path.exists():
            directory.create(*order, durable=False)
        return Attempt(order[0], directory, order[1], order[2], self.ports(reporter or MemoryReporter()))


def limits(**changes: int) -> contracts.Limits:
    """Small bounds for tests."""
    fields = {
        "pids": 64,
        "tmp_bytes": 16 << 20,
        "output_bytes": 64 << 20,
        "output_files": 1000,
        "log_bytes": 1 << 20,
    }
    return contracts.Limits(**{**fields, **changes})
