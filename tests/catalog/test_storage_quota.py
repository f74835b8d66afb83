"""What a project may store: told by the log, held by the catalog when an upload begins."""

from __future__ import annotations

import asyncio
import os
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from animus.catalog.v1 import blob_pb2, resolution_pb2
from animus_catalog.blobs.receive import Threads
from animus_catalog.blobs.storage import REFUSED_SECONDS, StorageLimits
from animus_catalog.domain.blobs import Scope
from animus_catalog.domain.errors import StorageQuotaExceeded
from animus_catalog.store import blobs as blob_store
from animus_catalog.store import storage
from animus_catalog.tail import quotas
from animus_kit.db.engine import transaction
from animus_kit.db.tail import Event
from animus_kit.documents import event
from animus_kit.testing.clock import FakeClock
from tests.catalog.world import digest_of, refused, upload_messages, write_messages


def quota_event(project: str, revision: int, *, payload: bytes | None = None, **limits: str) -> Event:
    body = {"limits": limits, "weight": 1, "revision": str(revision)}
    payload = payload or event.build_payload(quotas.UPDATED, body)
    salt = bytes(32)
    envelope = event.build_envelope(
        id=str(uuid.uuid4()),
        source="orchestrator",
        generation=str(uuid.uuid4()),
        seq=1,
        event_type=quotas.UPDATED,
        time=datetime.now(UTC),
        resource=f"{project}/quota",
        actor="service/orchestrator",
        salt=salt,
        payload=payload,
        project=project,
    )
    return Event(0, envelope, payload, salt)


def allow(world: Any, revision: int, **limits: str) -> None:
    with transaction(world.engine) as conn:
        quotas.apply(conn, quota_event(world.project, revision, **limits))


def refuse(world: Any, content: bytes) -> Any:
    messages = upload_messages(world.project, digest_of(content), content)
    return refused(world.blobs("alice").UploadBlob, iter(messages))


def test_people_store_up_to_the_limit_and_not_beyond_it(world: Any) -> None:
    world.upload(b"a" * 600)
    allow(world, 1, storedBytes="1000")
    error = refuse(world, b"b" * 401)
    assert error.reason == "STORAGE_QUOTA_EXCEEDED" and error.code == "FAILED_PRECONDITION"
    assert error.metadata == {"limit": "1000", "stored": "600", "size": "401"}
    world.upload(b"c" * 400)
    # What is there already takes nothing more.
    world.upload(b"a" * 600)
    small = [b"a" * 600, b"d"]
    request = blob_pb2.UploadSmallBlobsRequest(
        parent=world.project, blobs=[{"digest": digest_of(one), "data": one} for one in small]
    )
    assert refused(world.blobs("alice").UploadSmallBlobs, request).reason == "STORAGE_QUOTA_EXCEEDED"
    assert refuse(world, b"d").reason == "STORAGE_QUOTA_EXCEEDED"
    allow(world, 2, storedBytes="2000")
    world.upload(b"d")
    allow(world, 3)
    world.upload(b"e" * 5000)


def test_what_is_kept_of_broken_uploads_counts_until_they_go_on(world: Any) -> None:
    allow(world, 1, storedBytes="5000000")
    contents = [os.urandom(4_000_000) for _ in range(2)]
    part = upload_messages(world.project, digest_of(contents[0]), contents[0][:3_900_000], size=4_000_000)
    assert refused(world.blobs("alice").UploadBlob, iter(part)).reason == "UPLOAD_INCOMPLETE"
    assert refuse(world, contents[1]).reason == "STORAGE_QUOTA_EXCEEDED"
    world.upload(contents[0], offset=3_900_000)
    world.upload(b"x" * 1_000_000)
    assert refuse(world, b"y").reason == "STORAGE_QUOTA_EXCEEDED"


def test_an_attempt_stores_up_to_the_limit_and_its_staged_bytes_count(world: Any) -> None:
    allow(world, 1, storedBytes="1000")
    grant = world.grant(world.attempt())
    world.write(grant, b"a" * 700)
    error = refused(world.agent_blobs().WriteBlob, iter(write_messages(grant, digest_of(b"b" * 301), b"b" * 301)))
    assert error.reason == "STORAGE_QUOTA_EXCEEDED"
    assert refuse(world, b"c" * 301).reason == "STORAGE_QUOTA_EXCEEDED"
    world.upload(b"c" * 300)


def test_what_a_project_stores_is_told_to_the_orchestrator_alone(world: Any) -> None:
    world.upload(b"a" * 10)
    request = resolution_pb2.GetStoredBytesRequest(project=world.project)
    assert world.resolution().GetStoredBytes(request).stored_bytes == 10
    project = world.project.removeprefix("projects/")
    with transaction(world.engine) as conn:
        blob_store.stage(conn, Scope(project, f"{world.project}/x"), digest_of(b"z"), 5, datetime.now(UTC))
        assert storage.stored(conn, project) == 15
        # The same bytes, staged again or owned already, are stored once.
        blob_store.stage(conn, Scope(project, f"{world.project}/y"), digest_of(b"z"), 5, datetime.now(UTC))
        blob_store.stage(conn, Scope(project, f"{world.project}/y"), digest_of(b"a" * 10), 10, datetime.now(UTC))
        assert storage.stored(conn, project) == 15


def test_an_older_or_broken_event_changes_nothing(world: Any) -> None:
    project = world.project.removeprefix("projects/")
    allow(world, 5, storedBytes="10")
    allow(world, 4, storedBytes="99")
    allow(world, 5, storedBytes="99")
    with transaction(world.engine) as conn:
        broken = event.build_payload(quotas.UPDATED, {"limits": {"storedBytes": "many"}, "revision": "9"})
        quotas.apply(conn, quota_event(world.project, 9, payload=broken))
        assert storage.limit(conn, project) == 10


def test_who_is_refused_again_and_again_has_the_project_summed_once_a_second(world: Any, monkeypatch: Any) -> None:
    world.upload(b"a" * 600)
    allow(world, 1, storedBytes="1000")
    clock, summed, project = FakeClock(), [], world.project.removeprefix("projects/")
    real = storage.stored
    monkeypatch.setattr(storage, "stored", lambda *given: summed.append(clock.now()) or real(*given))
    limits = StorageLimits(world.engine, clock, Threads(1))

    async def ask(size: int) -> None:
        async with limits.room(project, size):
            pass

    asyncio.run(ask(100))
    for sums in (2, 3):
        for _ in range(5):
            with pytest.raises(StorageQuotaExceeded):
                asyncio.run(ask(401))
        assert len(summed) == sums
        asyncio.run(ask(400))
        clock.advance(REFUSED_SECONDS)


def test_uploads_side_by_side_do_not_pass_the_limit_together(world: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    allow(world, 1, storedBytes="1000")

    def upload(i: int) -> bool:
        try:
            world.upload(bytes([i]) * 300)
        except grpc.RpcError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(upload, range(6)))
    with transaction(world.engine) as conn:
        assert storage.stored(conn, world.project.removeprefix("projects/")) <= 1000
    assert sum(done) == 3
