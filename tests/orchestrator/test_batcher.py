"""The one writer for many streams: what one item's failure, and a database that is away, cost the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import sqlalchemy as sa

from animus_orchestrator.dispatch.batcher import Batcher


def outcomes(apply, works: Sequence[int]) -> list[object]:
    async def run() -> list[object]:
        batcher: Batcher = Batcher(apply)
        waiting = [await batcher.post(work) for work in works]  # one batch: nothing is applied before the start
        batcher.start()
        try:
            return await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            await batcher.close()

    return asyncio.run(run())


def away() -> sa.exc.OperationalError:
    return sa.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("connection timed out"))


def test_one_bad_item_fails_alone():
    def apply(works: Sequence[int]) -> list[int]:
        if 3 in works:
            raise ValueError("three")
        return [work * 2 for work in works]

    assert [str(one) for one in outcomes(apply, range(5))] == ["0", "2", "4", "three", "8"]


def test_nobody_waits_one_by_one_for_a_database_that_is_away():
    tries = []

    def apply(works: Sequence[int]) -> list[int]:
        tries.append(len(works))
        raise away()

    found = outcomes(apply, range(100))
    assert all(isinstance(one, sa.exc.OperationalError) for one in found)
    assert tries == [100, 100]


def test_a_lost_connection_is_tried_again_once():
    tries = []

    def apply(works: Sequence[int]) -> list[int]:
        tries.append(len(works))
        if len(tries) == 1:
            raise away()
        return list(works)

    assert outcomes(apply, range(10)) == list(range(10))


def test_what_is_void_unheard_is_not_done_for_who_has_gone():
    done = []

    def apply(works: Sequence[int]) -> list[int]:
        done.extend(works)
        return list(works)

    async def run() -> list[object]:
        batcher: Batcher = Batcher(apply, void=lambda work: work < 10)
        waiting = [await batcher.post(work) for work in (1, 2, 11, 12)]
        waiting[0].cancel()
        waiting[2].cancel()
        batcher.start()
        try:
            return await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            await batcher.close()

    answers = asyncio.run(run())
    assert done == [2, 11, 12] and (answers[1], answers[3]) == (2, 12)
