"""The agent as chaos starts it: the real one, with a clock that can be wrong and a stream that loses and doubles.

`python -m tests.chaos.node run` reads the agent's own settings, and $CHAOS_WEATHER: a folder with `weather.json`, which
may change at any time, and `deeds`, to which a line is added for each message that was lost or doubled.

    {"drop": 0.2, "double": 0.1, "clock_offset": 3600}
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from animus_agent.__main__ import _only_one
from animus_agent.loop import Agent
from animus_agent.settings import Settings
from animus_kit import log, settings
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.ids import RandomIds

# Without these there is no session at all: a stream that loses its first message is a stream that broke.
HANDSHAKE = ("hello", "welcome")
LOOK_SECONDS = 0.05


class Weather:
    """What is wrong at the moment."""

    def __init__(self, folder: Path) -> None:
        self._path, self._deeds = folder / "weather.json", folder / "deeds"
        self._read: dict[str, float] = {}
        self._looked = 0.0
        self._random = random.Random()

    def get(self, what: str) -> float:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            try:
                self._read = json.loads(self._path.read_text())
            except FileNotFoundError:
                self._read = {}
        return self._read.get(what, 0.0)

    def times(self, direction: str, kind: str) -> int:
        """How often a message is passed on: 0, 1 or 2."""
        if kind in HANDSHAKE:
            return 1
        die = self._random.random()
        drop, double = self.get("drop"), self.get("double")
        if die >= drop + double:
            return 1
        deed = "drop" if die < drop else "double"
        with self._deeds.open("a") as file:
            file.write(f"{deed} {direction} {kind}\n")
        return 0 if deed == "drop" else 2


class ShiftingClock(SystemClock):
    """The wall clock is off by what the weather says; the monotonic clock never lies."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._weather.get("clock_offset"))


class FaultyChannel:
    """A channel whose streams lose and double messages in both directions. Everything else passes."""

    def __init__(self, channel: Any, weather: Weather) -> None:
        self._channel, self._weather = channel, weather

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def stream_stream(self, *arguments: Any, **more: Any) -> Any:
        inner = self._channel.stream_stream(*arguments, **more)

        def call(messages: AsyncIterator[Any], **options: Any) -> Any:
            return FaultyCall(inner(self._pass(messages, "to"), **options), self._weather)

        return call

    async def _pass(self, messages: AsyncIterator[Any], direction: str) -> AsyncIterator[Any]:
        async for message in messages:
            for _ in range(self._weather.times(direction, message.WhichOneof("message"))):
                yield message


class FaultyCall:
    def __init__(self, call: Any, weather: Weather) -> None:
        self._call, self._weather = call, weather

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for message in self._call:
            for _ in range(self._weather.times("from", message.WhichOneof("message"))):
                yield message


def main() -> None:
    chosen = settings.load(Settings, os.environ)
    log.configure("agent", chosen.log_level)
    weather = Weather(Path(os.environ["CHAOS_WEATHER"]))

    def connect(*arguments: Any, **more: Any) -> FaultyChannel:
        return FaultyChannel(dial(*arguments, **more), weather)

    async def live() -> None:
        await Agent(chosen, ShiftingClock(weather), RandomIds(), connect).run()

    lock = _only_one(chosen)
    with lock:
        asyncio.run(live())


if __name__ == "__main__":
    sys.exit(main())
