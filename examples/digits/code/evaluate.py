"""evaluate.py --min-accuracy A: measures both models on pictures that neither has seen, hands on the better one.

in: test, model-a, model-b   out: model (a copy of the better one), report (report.json)
"""

import argparse
import shutil

import numpy as np
from step import INPUTS, OUTPUTS, load, probabilities, report, save_json

arguments = argparse.ArgumentParser()
arguments.add_argument("--min-accuracy", type=float, required=True)
options = arguments.parse_args()

pixels = load(INPUTS / "test", "pixels")
labels = load(INPUTS / "test", "labels")
found = {}
for name in ("model-a", "model-b"):
    answer = probabilities(INPUTS / name, pixels)
    guesses = answer.argmax(axis=1)
    confusion = np.zeros((10, 10), dtype=np.int64)
    np.add.at(confusion, (labels, guesses), 1)
    found[name] = {
        "accuracy": float(np.mean(guesses == labels)),
        "log_loss": float(-np.mean(np.log(answer[np.arange(len(labels)), labels] + 1e-15))),
        "recall": {str(digit): float(confusion[digit, digit] / confusion[digit].sum()) for digit in range(10)},
        "confusion": confusion.tolist(),
    }
    print(f"{name}: accuracy {found[name]['accuracy']:.4f}, log loss {found[name]['log_loss']:.4f}", flush=True)

# Accuracy decides; with equal accuracy the surer model, with both equal the first.
chosen = min(found, key=lambda name: (-found[name]["accuracy"], found[name]["log_loss"], name))
best = found[chosen]["accuracy"]
print(f"chosen: {chosen}", flush=True)
if best < options.min_accuracy:
    raise SystemExit(f"the better model reaches {best:.4f}, less than the {options.min_accuracy} asked for")
for path in sorted((INPUTS / chosen).iterdir()):
    shutil.copyfile(path, OUTPUTS / "model" / path.name)
save_json(OUTPUTS / "report" / "report.json", {"chosen": chosen, "rows": len(labels), "models": found})
report(
    accuracy=best,
    log_loss=found[chosen]["log_loss"],
    accuracy_a=found["model-a"]["accuracy"],
    accuracy_b=found["model-b"]["accuracy"],
    chosen_b=chosen == "model-b",
)
