"""One writer for many streams: work that waits is applied in one transaction.

Nothing is delayed to make batches larger: while one transaction commits, the next batch gathers, so that a lone
message waits for nothing and a crowd shares its commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from animus_kit.db.engine import is_away
from animus_kit.errors import AppError
from animus_kit.log import get_logger

Work = TypeVar("Work")
Answer = TypeVar("Answer")
log = get_logger(__name__)


class Batcher(Generic[Work, Answer]):
    """Applies work in batches on one thread. `apply` gets a list and returns one answer or error for each item."""

    def __init__(
        self,
        apply: Callable[[Sequence[Work]], Sequence[Answer | AppError]],
        max_batch: int = 256,
        *,
        void: Callable[[Work], bool] = lambda _: False,
    ):
        """void: whether a work is not to be done when whoever asked for it has gone before its turn came."""
        self._apply = apply
        self._void = void
        self._max = max_batch
        self._queue: asyncio.Queue[tuple[Work, asyncio.Future[Answer]]] = asyncio.Queue(maxsize=max_batch * 64)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dispatch-writer")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="dispatch-writer")

    async def post(self, work: Work) -> asyncio.Future[Answer]:
        """Queues the work; the future is done when it is durable. Work of one caller is applied in its order."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self._queue.put((work, done))
        return done

    async def submit(self, work: Work) -> Answer:
        """Waits until the work is durable. Raises what it was refused with."""
        return await (await self.post(work))

    async def close(self) -> None:
        """Finishes what was submitted."""
        if self._task is None:
            return
        await self._queue.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._max and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            wanted = [one for one in batch if not (one[1].cancelled() and self._void(one[0]))]
            try:
                if wanted:
                    await loop.run_in_executor(self._thread, self._do, loop, wanted)
            finally:
                for _ in batch:
                    self._queue.task_done()

    def _do(
        self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Work, asyncio.Future[Answer]]], *, again: bool = True
    ) -> None:
        try:
            answers = list(self._apply([work for work, _ in batch]))
        except Exception as error:  # one bad item must not take the others with it: each gets a transaction of its own
            away = is_away(error)
            if away and again:  # perhaps only our connection was lost
                return self._do(loop, batch, again=False)
            # A database that is away does not answer the next one either: each would wait for it in vain.
            if len(batch) == 1 or away:
                log.exception("dispatch work failed", extra={"work": type(batch[0][0]).__name__, "size": len(batch)})
                for _, done in batch:
                    loop.call_soon_threadsafe(_settle, done, error)
                return
            log.warning("a batch failed and is applied one by one", extra={"size": len(batch), "error": str(error)})
            for item in batch:
                self._do(loop, [item])
            return
        for (_, done), answer in zip(batch, answers, strict=True):
            loop.call_soon_threadsafe(_settle, done, answer)


def _settle(done: asyncio.Future, answer: object) -> None:
    if done.done():  # the stream that asked is gone
        return
    if isinstance(answer, Exception):
        done.set_exception(answer)
    else:
        done.set_result(answer)
