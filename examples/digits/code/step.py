"""What the steps share: where things stand in the container, and how metrics are told.

Only the standard library and numpy. Nothing is caught here: a step that cannot do its work must fail.
"""

import json
from pathlib import Path

import numpy as np

ROOT = Path("/animus")
INPUTS = ROOT / "inputs"
OUTPUTS = ROOT / "outputs"


def load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def save(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def save_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def report(**metrics: float) -> None:
    """The step's final metrics, as one flat document."""
    save_json(ROOT / "metrics.json", {name: float(value) for name, value in metrics.items()})
    print(" ".join(f"{name}={value:.4f}" for name, value in sorted(metrics.items())), flush=True)


class Curve:
    """A metric over time, line by line, so that it can be followed while the step runs."""

    def __init__(self) -> None:
        self._stream = (ROOT / "metrics.jsonl").open("w", buffering=1)

    def point(self, name: str, step: int, value: float) -> None:
        self._stream.write(json.dumps({"name": name, "step": step, "value": float(value)}) + "\n")


def probabilities(model: Path, pixels: np.ndarray) -> np.ndarray:
    """What a saved network answers: one row for each picture, one column for each digit."""
    layers = json.loads((model / "model.json").read_text())["layers"]
    values = pixels
    for number in range(layers):
        values = values @ load(model, f"weights-{number}") + load(model, f"bias-{number}")
        if number < layers - 1:
            values = np.maximum(values, 0)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def accuracy(model: Path, pixels: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities(model, pixels).argmax(axis=1) == labels))
