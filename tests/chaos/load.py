"""The runs: small pipelines whose logs and outputs are known beforehand, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.system.world import pipeline, step

DATASET = "seed"
LINES = 40
# Enough that no run fails for want of attempts, whatever is killed; FAILED is then always the step's own doing.
ATTEMPTS = 50
BROKEN_STATUS = 3

# name → (steps it reads from, seconds that it takes beside its start)
SHAPES: dict[str, dict[str, tuple[tuple[str, ...], float]]] = {
    "single": {"only": ((), 1.0)},
    "chain": {"first": ((), 0.5), "second": (("first",), 0.5)},
    "diamond": {
        "first": ((), 0.5),
        "left": (("first",), 0.8),
        "right": (("first",), 0.4),
        "last": (("left", "right"), 0.3),
    },
    "fan": {"first": ((), 0.4), "one": (("first",), 0.5), "two": (("first",), 1.0)},
    "slow": {"first": ((), 4.0), "second": (("first",), 0.3)},
    "broken": {"first": ((), 0.4), "fails": (("first",), 0.2), "never": (("fails",), 0.1)},
}
# How often each comes, out of all.
MIX = (("single", 20), ("chain", 30), ("diamond", 20), ("fan", 15), ("slow", 10), ("broken", 5))
# Of a hundred runs so many are canceled while they run.
CANCELED_PERCENT = 6


@dataclass(frozen=True)
class Order:
    """One run to submit."""

    id: str
    shape: str
    request_id: str
    cancel: bool


def orders(choice: random.Random, count: int) -> Iterator[Order]:
    """The runs of a seed, always the same. Every shape comes before any comes twice."""
    names = [name for name, _ in MIX]
    weights = [weight for _, weight in MIX]
    for number in range(count):
        shape = names[number] if number < len(names) else choice.choices(names, weights)[0]
        request = f"{choice.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
        cancel = shape != "broken" and choice.randrange(100) < CANCELED_PERCENT
        yield Order(f"run-{number:03d}", shape, request, cancel or number == len(names))


def line(name: str, number: int) -> str:
    return f"{name}: line {number} of {LINES}, and some more words so that it has a length\n"


def log_of(shape: str, name: str) -> bytes:
    """What a step that came to its end has printed."""
    return "".join(line(name, number) for number in range(1, LINES + 1)).encode()


def fails(shape: str, name: str) -> bool:
    return shape == "broken" and name == "fails"


def document(shape: str, image: str) -> dict[str, Any]:
    """The pipeline of a shape."""
    steps = SHAPES[shape]
    edges = [(source, name) for name, (sources, _) in steps.items() for source in sources]
    return pipeline(*(_step(shape, name, image) for name in steps), dependencies=edges)


def _step(shape: str, name: str, image: str) -> dict[str, Any]:
    sources, seconds = SHAPES[shape][name]
    found = step(
        name,
        image,
        _script(shape, name, seconds),
        datasets={} if sources else {DATASET: DATASET},
        artifacts={f"from-{source}": (source, "out") for source in sources},
        outputs=["out"],
        attempts=2 if fails(shape, name) else ATTEMPTS,
        resources={"cpu": "0.25", "memory": "32Mi", "gpu": 0},
    )
    return found


def _script(shape: str, name: str, seconds: float) -> str:
    """Ten rests, so that whatever is killed is killed in the middle of a log."""
    words = line(name, 0).replace(" line 0 ", " line $i ").strip()
    rest = f"sleep {seconds / 10:.2f}"
    text = f"""
        cat /animus/inputs/*/n > /animus/outputs/out/n
        i=1
        while [ $i -le {LINES} ]; do
            echo "{words}"
            [ $((i % {LINES // 10})) -ne 0 ] || {rest}
            i=$((i + 1))
        done
        echo {name} >> /animus/outputs/out/n
    """
    return text + (f"exit {BROKEN_STATUS}" if fails(shape, name) else "")
