"""Blobs: who owns them, and what a grant lets an agent do with them."""

from __future__ import annotations

from dataclasses import dataclass

from animus_catalog.domain.errors import OutsideGrant
from animus_kit.documents.contract import Grant
from animus_kit.names import id_of


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom bytes are taken in: a project, or one attempt in it (staged until the attempt commits)."""

    project: str
    attempt: str = ""


@dataclass(frozen=True, slots=True)
class KeptUpload:
    """What is kept of an interrupted upload."""

    digest: str
    size: int
    offset: int
    staging: str
    """Name of the staging file."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt has written so far, or is writing."""

    blobs: int = 0
    bytes: int = 0


def scope_of(grant: Grant) -> Scope:
    return Scope(id_of(grant.project), grant.attempt)


def may_read_from(grant: Grant, container: str) -> bool:
    """Whether the grant names the manifest or image."""
    return container in grant.readable_manifests or container in grant.readable_images


def require_room(grant: Grant, used: Usage, size: int) -> None:
    """Raises OutsideGrant when one more blob of `size` bytes would be more than the grant allows."""
    if used.blobs + 1 > grant.write_blobs:
        raise OutsideGrant(f"the grant allows {grant.write_blobs} blobs", "blobs")
    if used.bytes + size > grant.write_bytes:
        raise OutsideGrant(f"the grant allows {grant.write_bytes} bytes", "bytes")
