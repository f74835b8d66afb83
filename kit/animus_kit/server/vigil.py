"""A stream lives longer than what it was admitted on: the token behind it ends, and rights are taken away.

So that for as long as a person's stream is open somebody looks again and again, and ends it with what was found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from animus_kit.errors import AppError

LOOK_SECONDS = 1.0
"""Between looks. With the second for which an allow is kept, a right that was taken away is gone after two."""

T = TypeVar("T")
_END = object()


class Vigil:
    """Over one stream, from here to `close`, both on its event loop.

    look: raises AppError when the stream is to end. One that may pass by (with retry_after) ends it when it comes twice
    in a row: a policy service that is restarted cuts no stream, and one that is away lets none go on.
    """

    def __init__(self, look: Callable[[], Awaitable[None]]):
        self._look = look
        self._refusal: Exception | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._cancels = 0
        self._task = asyncio.create_task(self._keep())

    def close(self) -> None:
        self._task.cancel()

    async def over(self, answers: AsyncIterator[T]) -> AsyncIterator[T]:
        """The answers, up to the refusal. None is handed out after it."""
        while True:
            answer = await self.wait(anext(answers, _END))
            if answer is _END:
                return
            if self._refusal is not None:
                raise self._refusal
            yield answer  # type: ignore[misc]

    async def wait(self, handler: Awaitable[T]) -> T:
        """What the handler answers. A refusal meanwhile cancels it, and is raised."""
        task = self._waiting = asyncio.current_task()
        assert task is not None
        try:
            return await handler
        except asyncio.CancelledError:
            left = task.cancelling()
            while self._cancels and left:
                self._cancels -= 1
                left = task.uncancel()
            # The caller may be gone as well; then there is nobody to tell.
            if self._refusal is None or left:
                raise
            raise self._refusal from None
        finally:
            self._waiting = None

    async def _keep(self) -> None:
        doubt = False
        while self._refusal is None:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
                doubt = False
            except AppError as error:
                if error.retry_after is None or doubt:
                    self._refusal = error
                doubt = True
            except Exception as error:
                self._refusal = error
        # A task that is sending is left alone: it comes back by itself, and cut there the caller would learn nothing.
        # More than once, since a wait that was over at that moment may have swallowed the first.
        while True:
            if self._waiting is not None:
                self._cancels += 1
                self._waiting.cancel()
            await asyncio.sleep(LOOK_SECONDS)
