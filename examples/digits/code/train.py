"""train.py --hidden N --rate R --epochs E --seed S: trains a network with one hidden layer, and tells how it goes.

in: train   out: model (weights-*.npy, bias-*.npy, model.json)
"""

import argparse

import numpy as np
from sklearn.neural_network import MLPClassifier
from step import INPUTS, OUTPUTS, Curve, accuracy, load, report, save, save_json

arguments = argparse.ArgumentParser()
arguments.add_argument("--hidden", type=int, required=True)
arguments.add_argument("--rate", type=float, required=True)
arguments.add_argument("--epochs", type=int, required=True)
arguments.add_argument("--seed", type=int, required=True)
options = arguments.parse_args()

pixels = load(INPUTS / "train", "pixels")
labels = load(INPUTS / "train", "labels")
classes = np.unique(labels)
network = MLPClassifier(
    hidden_layer_sizes=(options.hidden,),
    learning_rate_init=options.rate,
    batch_size=64,
    random_state=options.seed,
)
curve = Curve()
for epoch in range(1, options.epochs + 1):
    network.partial_fit(pixels, labels, classes=classes)
    right = float(np.mean(network.predict(pixels) == labels))
    curve.point("loss", epoch, network.loss_)
    curve.point("train_accuracy", epoch, right)
    print(f"epoch {epoch}/{options.epochs} loss {network.loss_:.4f} accuracy {right:.4f}", flush=True)

model = OUTPUTS / "model"
for number, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
    save(model, f"weights-{number}", weights)
    save(model, f"bias-{number}", bias)
save_json(
    model / "model.json",
    {
        "classes": classes.tolist(),
        "hidden": options.hidden,
        "layers": len(network.coefs_),
        "rate": options.rate,
        "epochs": options.epochs,
    },
)
# The saved files must answer as the network did, or what is registered later is something else.
if accuracy(model, pixels, labels) != right:
    raise SystemExit("the saved model does not answer as the trained one")
report(loss=network.loss_, train_accuracy=right, weights=sum(weights.size for weights in network.coefs_))
