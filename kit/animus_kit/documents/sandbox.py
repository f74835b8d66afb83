"""The sandbox report of an attempt, and the fingerprint of the host it ran on.

Neither is part of an action: they tell what really was, and stand beside the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from .contract import Limits, Resources
from .kinds import ATTEMPT, DIGEST, FLAG, HEX256, PLATFORM, TIME, each, int64, mapping, record, text
from .shape import Document, Record, digest_of, field

_NAME = text(63, "[a-z][a-z0-9-]*")
_WORDS = text(256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(Record):
    """A device as its driver names it."""

    uuid: str = field(_WORDS)
    model: str = field(_WORDS)
    driver_version: str = field(_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFingerprint(Document):
    """What of a machine can change bytes although no action says so. `libraries`: name → version, for example runc."""

    NOUN: ClassVar[str] = "host-fingerprint"

    platform: str = field(PLATFORM)
    kernel: str = field(_WORDS)
    cpu_model: str = field(_WORDS)
    cpu_flags_sha256: str | None = field(HEX256, optional=True)
    """SHA-256 of the sorted flags joined by spaces: what numeric libraries choose their kernels by."""
    gpus: tuple[Gpu, ...] = field(each(record(Gpu), key=lambda gpu: gpu.uuid, maximum=256))
    libraries: Mapping[str, str] = field(mapping(_WORDS, text(63, "[a-z0-9][a-z0-9._-]*"), 64))

    @property
    def host_class(self) -> str:
        """Digest without device ids: two machines of one build have the same. What `cache.host: same` compares."""
        same = HostFingerprint(
            platform=self.platform,
            kernel=self.kernel,
            cpu_model=self.cpu_model,
            cpu_flags_sha256=self.cpu_flags_sha256,
            gpus=(),
            libraries=self.libraries,
        )
        models = sorted(f"{gpu.model} {gpu.driver_version}" for gpu in self.gpus)
        return digest_of("\n".join((same.digest, *models)).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature(Record):
    """One isolation feature: whether it was in force for this attempt, and what the canary or the kernel said."""

    name: str = field(_NAME)
    enforced: bool = field(FLAG)
    detail: str = field(text(4096, empty=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressDecision(Record):
    """What the proxy decided about one destination for one reason, over all connections of the attempt.

    `allowed`: whether the rules permit it; a permitted connection can still fail (CONNECT_FAILED, RESOLVE_FAILED).
    Bytes are those between step and destination, without the proxy's own.
    """

    destination: str = field(text(512))
    allowed: bool = field(FLAG)
    reason: str = field(text(63, "[A-Z][A-Z_]*"))
    addresses: tuple[str, ...] = field(each(text(64, "[0-9a-f.:]+"), key=str, maximum=16))
    """What the name stood for; at most 16 are kept."""
    connections: int = field(int64(1))
    sent_bytes: int = field(int64(0))
    received_bytes: int = field(int64(0))
    first_time: datetime = field(TIME)
    last_time: datetime = field(TIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress(Record):
    """Every decision of the egress proxy. `unlisted`: connections beyond what `decisions` could hold."""

    allow: tuple[str, ...] = field(each(text(300), key=str, maximum=1024))
    decisions: tuple[EgressDecision, ...] = field(
        each(record(EgressDecision), key=lambda one: (one.destination, one.reason), maximum=8192)
    )
    unlisted: int = field(int64(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReport(Document):
    """What isolated an attempt, and what the kernel counted.

    `counters`: for example oom-kills, pids-max-events, memory-peak-bytes, cpu-user-micros; 64-bit.
    """

    NOUN: ClassVar[str] = "sandbox-report"

    attempt: str = field(ATTEMPT)
    driver: str = field(_NAME)
    runtime: str = field(_WORDS)
    """Name and version, for example runc 1.1.5."""
    configuration_sha256: str | None = field(HEX256, optional=True)
    """SHA-256 of the runtime configuration as it was used."""
    seccomp_profile: str = field(text(128, "[a-z0-9][a-z0-9.-]*"))
    seccomp_sha256: str | None = field(HEX256, optional=True)
    features: tuple[Feature, ...] = field(each(record(Feature), key=lambda feature: feature.name, maximum=256))
    resources: Resources = field(record(Resources))
    limits: Limits = field(record(Limits))
    gpus: tuple[str, ...] = field(each(_WORDS, key=str, maximum=256))
    counters: Mapping[str, int] = field(mapping(int64(0), _NAME, 256))
    egress: Egress | None = field(record(Egress), optional=True)
    """Present when the attempt had a network allow-list, also when it connected to nothing."""
    host: HostFingerprint = field(record(HostFingerprint))
    host_class: str = field(DIGEST)
