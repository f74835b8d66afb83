"""`python -m tests.agent.dying run`: the agent as it is, killed with -9 in the middle of what it does.

Nothing of the agent knows of this: its threads are traced, and each attempt gets one point of its way at which it
stops. When all that were to stop have stopped, or no other comes, the process kills itself, so that one death cuts many
attempts, each elsewhere.

DYING_MODE  `steps`: the k-th attempt stops before the k-th step of the list, or after the last.
            `lines`: each stops at a line of the agent's own code that it reaches for the first time.
DYING_SEED  of the choice of lines. DYING_WANTED: how many are to stop. DYING_LOG: where the points are written down.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from animus_agent import held, node
from animus_agent.__main__ import main
from animus_agent.attempt import steps
from animus_kit.documents.sandbox import Feature

PACKAGE = Path(held.__file__).parent
# Where an attempt's way leads through; what they call only computes.
TRACED = {str(PACKAGE / name) for name in ("held.py", "trees.py", "sandbox/runc.py", "images/cache.py")}
TRACED |= {str(path) for path in (PACKAGE / "attempt").glob("*.py")}
# About as many lines as an attempt that succeeds sees for the first time.
LINES = 330
# Every boundary is reached; a line may not be.
PATIENCE = {"steps": 30.0, "lines": 0.7}
BOUNDARIES = (*(step.__name__ for step in steps.STEPS), "end")


class Death:
    """Stops threads at their points, and then the process."""

    def __init__(self, wanted: int, path: Path, patience: float) -> None:
        self._wanted = wanted
        self._patience = patience
        self._path = path
        self._lock = threading.Lock()
        self._points: list[str] = []
        self._last = time.monotonic()

    def stop_here(self, attempt: str, point: str) -> None:
        with self._lock:
            self._points.append(f"{attempt} {point}")
            self._last = time.monotonic()
        threading.Event().wait()

    def watch(self) -> None:
        while True:
            time.sleep(0.01)
            with self._lock:
                stopped, quiet = len(self._points), time.monotonic() - self._last
                if stopped < self._wanted and (not stopped or quiet < self._patience):
                    continue
                with self._path.open("a") as log:
                    log.write("".join(f"{point}\n" for point in self._points))
            os.kill(os.getpid(), signal.SIGKILL)


class Lines:
    """Traces threads; the n-th line that a thread reaches for the first time is its point."""

    def __init__(self, death: Death, seed: str) -> None:
        self._death = death
        self._seed = seed

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For threading.settrace: called first in each new thread."""
        name = threading.current_thread().name
        if not name.startswith("an-"):
            sys.settrace(None)
            return None
        left = random.Random(f"{self._seed} {name}").randrange(1, LINES)
        seen: set[tuple[str, int]] = set()

        def lines(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            here = (frame.f_code.co_filename, frame.f_lineno)
            if event == "line" and here not in seen:
                seen.add(here)
                left -= 1
                if left == 0:
                    self._death.stop_here(name, f"{Path(here[0]).relative_to(PACKAGE)}:{here[1]}")
            return lines

        def calls(frame: FrameType, event: str, argument: Any) -> Any:
            return lines if frame.f_code.co_filename in TRACED else None

        sys.settrace(calls)
        return calls(frame, event, argument)


def stop_between_steps(death: Death) -> None:
    """By the number of the attempt's step, so that every boundary is met."""
    execute, clean_up = steps.execute, steps.clean_up

    def point_of(attempt: Any) -> str:
        number = int(attempt.name.split("/steps/step-")[1].split("/")[0])
        return BOUNDARIES[number % len(BOUNDARIES)]

    def stopping(attempt: Any, between: Any) -> None:
        def before(name: str) -> None:
            if name == point_of(attempt):
                death.stop_here(attempt.directory.id, f"before {name}")
            between(name)

        execute(attempt, before)

    def at_the_end(attempt: Any) -> None:
        if point_of(attempt) == "end":
            death.stop_here(attempt.directory.id, "before end")
        clean_up(attempt)

    steps.execute, steps.clean_up = stopping, at_the_end


def examine_once(path: Path) -> None:
    """The canaries' findings, kept from one life to the next: they have their own tests and take a third of a second."""
    examine = node.examine

    def kept(parts: node.NodeParts) -> tuple[Feature, ...]:
        if not path.exists():
            found = [[one.name, one.enforced, one.detail] for one in examine(parts)]
            path.write_text(json.dumps(found))
        return tuple(Feature(name=n, enforced=e, detail=d) for n, e, d in json.loads(path.read_text()))

    node.examine = kept


if __name__ == "__main__":
    mode = os.environ.get("DYING_MODE", "")
    if "DYING_LOG" in os.environ:
        examine_once(Path(os.environ["DYING_LOG"]).with_name("features.json"))
    if sys.argv[1:] == ["run"] and mode:
        death = Death(int(os.environ["DYING_WANTED"]), Path(os.environ["DYING_LOG"]), PATIENCE[mode])
        if mode == "steps":
            stop_between_steps(death)
        else:
            threading.settrace(Lines(death, os.environ["DYING_SEED"]).trace)
        threading.Thread(target=death.watch, name="death", daemon=True).start()
    sys.exit(main())
