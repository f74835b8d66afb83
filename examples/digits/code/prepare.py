"""prepare.py --seed N --test-percent P: reads the exported digits, scales the pixels to 0..1 and splits them,
each digit in the same proportion.

in: digits (the dataset)   out: train, test (pixels.npy, labels.npy)
"""

import argparse
import json

import numpy as np
from step import INPUTS, OUTPUTS, report, save

arguments = argparse.ArgumentParser()
arguments.add_argument("--seed", type=int, required=True)
arguments.add_argument("--test-percent", type=int, required=True)
options = arguments.parse_args()

source = INPUTS / "digits"
schema = json.loads((source / "schema.json").read_text())
pixels = np.loadtxt(source / "pixels.csv", delimiter=",", dtype=np.float64)
labels = np.loadtxt(source / "labels.csv", dtype=np.int64)
if pixels.shape != (schema["rows"], schema["pixels"]["columns"]) or labels.shape != (schema["rows"],):
    raise SystemExit(f"the data does not have the shape its schema states: {pixels.shape}, {labels.shape}")
pixels /= schema["pixels"]["maximum"]

random = np.random.default_rng(options.seed)
share = options.test_percent / 100
chosen = np.zeros(len(labels), dtype=bool)
for digit in schema["labels"]["classes"]:
    rows = np.flatnonzero(labels == digit)
    chosen[random.permutation(rows)[: round(share * len(rows))]] = True

for name, mask in (("train", ~chosen), ("test", chosen)):
    save(OUTPUTS / name, "pixels", pixels[mask])
    save(OUTPUTS / name, "labels", labels[mask])
report(train_rows=np.sum(~chosen), test_rows=np.sum(chosen), mean_pixel=pixels.mean())
