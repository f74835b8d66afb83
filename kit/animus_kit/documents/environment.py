"""Environment locks: an image's platform manifest with the packages found in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from . import canonical
from .kinds import DIGEST, HEX256, PLATFORM, each, record, text
from .shape import Document, Record, digest_of, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Package(Record):
    """`kind` is the system it came from, deb or python among others; `sha256` that of the package file, where known."""

    kind: str = field(text(32, "[a-z][a-z0-9-]{0,31}"))
    name: str = field(text(256))
    version: str = field(text(256))
    sha256: str | None = field(HEX256, optional=True)


def _package_key(package: Package) -> tuple[str, str, str]:
    return package.kind, package.name, package.version


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentLock(Document):
    """`image` is the digest of the platform manifest, never of an index."""

    NOUN: ClassVar[str] = "environment-lock"

    image: str = field(DIGEST)
    platform: str = field(PLATFORM)
    packages: tuple[Package, ...] = field(each(record(Package), key=_package_key, maximum=20_000))


def environment_digest(locks: Iterable[str]) -> str:
    """The environment of a run: the digest of its locks' digests, each once, sorted."""
    return digest_of(canonical.dumps(sorted(set(locks))))
