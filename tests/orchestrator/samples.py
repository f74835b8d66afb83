"""Pipeline documents and bindings for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from animus.orchestrator.v1 import run_pb2


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


IMAGE = digest("image")


def step_yaml(
    name: str,
    *,
    datasets: str = "[]",
    artifacts: str = "[]",
    outputs: str = "[{name: out, type: data}]",
    cpu: str = "1",
    attempts: int = 1,
    memory: str = "64Mi",
    gpu: int = 0,
    backoff: int = 0,
) -> str:
    return f"""
    - name: {name}
      image: registry.test/py@{IMAGE}
      command: [python, "-m", {name}]
      args: []
      inputs: {{datasets: {datasets}, artifacts: {artifacts}}}
      outputs: {{artifacts: {outputs}}}
      env: []
      resources: {{cpu: "{cpu}", memory: {memory}, gpu: {gpu}}}
      retryPolicy:
        maxAttempts: {attempts}
        backoff: {{type: fixed, initialSeconds: {backoff}, maxSeconds: {backoff}, multiplier: 1}}"""


def pipeline(*steps: str, edges: list[tuple[str, str]] = ()) -> bytes:
    dependencies = ", ".join(f"{{from: {a}, to: {b}}}" for a, b in edges)
    return f"""apiVersion: animus/v1alpha1
kind: Pipeline
specVersion: "1"
spec:
  steps:{"".join(steps)}
  dependencies: [{dependencies}]
""".encode()


def chain(attempts: int = 1, backoff: int = 0) -> bytes:
    """prepare (reads a dataset) → train (reads its output)."""
    return pipeline(
        step_yaml("prepare", datasets="[{name: raw, datasetRef: digits}]", attempts=attempts, backoff=backoff),
        step_yaml("train", artifacts="[{name: data, fromStep: prepare, artifact: out}]", attempts=attempts),
        edges=[("prepare", "train")],
    )


def single(**kw: Any) -> bytes:
    return pipeline(step_yaml("only", datasets="[{name: raw, datasetRef: digits}]", **kw))


def bindings(project: str) -> run_pb2.Bindings:
    return run_pb2.Bindings(
        datasets=[{"dataset_ref": "digits", "dataset_version": f"{project}/datasets/digits/versions/v1"}],
        code=[{"code_snapshot": f"{project}/codeSnapshots/c1"}],
        labels={"team": "vision"},
    )
