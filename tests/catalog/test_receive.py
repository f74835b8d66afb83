"""Receiving a blob: what is left of a call that is cancelled in the middle of a write."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from animus_catalog.blobs.receive import Receiver, Threads
from animus_catalog.blobs.staging import StagedFile
from animus_catalog.domain.blobs import Scope
from animus_catalog.store import blobs as store
from animus_kit.clock import SystemClock
from animus_kit.db.engine import transaction
from tests.catalog.world import digest_of

PIECE = 1 << 20


def test_a_cancelled_call_keeps_its_file_only_when_the_last_write_has_ended(world, monkeypatch):
    content = os.urandom(2 * PIECE)
    digest = digest_of(content)
    scope = Scope(world.project.removeprefix("projects/"))
    writing, go_on, closed = threading.Event(), threading.Event(), []
    write, close = StagedFile.write, StagedFile.close

    def slow_write(file, data):
        writing.set()
        assert go_on.wait(10)
        write(file, data)

    def noted_close(file):
        closed.append(file.offset)
        close(file)

    monkeypatch.setattr(StagedFile, "write", slow_write)
    monkeypatch.setattr(StagedFile, "close", noted_close)
    receiver = Receiver(world.engine, None, world.staging, Threads(2), SystemClock())

    async def pieces():
        yield content[:PIECE]
        await asyncio.Event().wait()

    async def cancelled():
        call = asyncio.ensure_future(receiver.receive(scope, digest, len(content), 0, pieces(), lambda conn: None))
        await asyncio.to_thread(writing.wait, 10)
        call.cancel()
        # Every turn that the loop could take before the write has ended.
        for _ in range(20):
            await asyncio.sleep(0)
        assert closed == []
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    with transaction(world.engine) as conn:
        kept = store.kept_upload(conn, scope, digest)
        obsolete = store.drop_upload(conn, scope, digest)
    assert (kept.offset, kept.size) == (PIECE, len(content))
    assert closed == [PIECE]
    world.staging.remove(obsolete)
