"""A checked pipeline document, with everything that it leaves out written out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from animus_kit.documents.contract import Resources
from animus_kit.documents.plan import Backoff, Retry
from animus_kit.documents.values import Scalar

from . import quantity
from .rules import parameter_value

DEFAULT_TIMEOUT_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class DatasetInput:
    name: str
    dataset_ref: str


@dataclass(frozen=True, slots=True)
class ArtifactInput:
    name: str
    from_step: str
    artifact: str


@dataclass(frozen=True, slots=True)
class Output:
    """`compare` and `tolerance`: how two executions are held against each other."""

    name: str
    type: str
    media_type: str | None
    compare: str = "bytes"
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    name: str
    reference: str
    version: str


@dataclass(frozen=True, slots=True)
class Step:
    """`image` as it was written, `image_digest` its digest. `cache` is None where the step does not say."""

    name: str
    image: str
    image_digest: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    dataset_inputs: tuple[DatasetInput, ...]
    artifact_inputs: tuple[ArtifactInput, ...]
    outputs: tuple[Output, ...]
    env: tuple[tuple[str, str], ...]
    resources: Resources
    retry: Retry
    timeout_seconds: int
    secrets: tuple[Secret, ...]
    cache_enabled: bool
    cache_host: str
    aslr: bool
    network_mode: str
    network_allow: tuple[str, ...]
    accelerator_kind: str
    accelerator_model: str | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """`default` is None when a run must bind it."""

    name: str
    type: str
    default: Scalar | None


@dataclass(frozen=True, slots=True)
class Gate:
    name: str
    type: str
    before: tuple[str, ...]
    approvals: int


@dataclass(frozen=True, slots=True)
class PipelineDocument:
    """`original` are the bytes as sent, `canonical` their RFC 8785 form, `digest` is over the latter. `places` tells
    line and column of a path in the original."""

    original: bytes
    media_type: str
    canonical: bytes
    digest: str
    api_version: str
    spec_version: str
    name: str
    description: str
    labels: Mapping[str, str]
    steps: tuple[Step, ...]
    dependencies: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    gates: tuple[Gate, ...]
    places: Mapping[str, tuple[int, int]]


def build(original: bytes, media_type: str, canonical: bytes, digest: str, data: Any, places: Any) -> PipelineDocument:
    """Makes the document of data that passed every check."""
    metadata = data.get("metadata", {})
    spec = data["spec"]
    return PipelineDocument(
        original=original,
        media_type=media_type,
        canonical=canonical,
        digest=digest,
        api_version=data["apiVersion"],
        spec_version=data["specVersion"],
        name=metadata.get("name", ""),
        description=metadata.get("description", ""),
        labels=metadata.get("labels", {}),
        steps=tuple(_step(step) for step in spec["steps"]),
        dependencies=tuple((one["from"], one["to"]) for one in spec["dependencies"]),
        parameters=tuple(_parameter(one) for one in spec.get("parameters", [])),
        gates=tuple(
            Gate(one["name"], one["type"], tuple(one["before"]), one["approvals"]) for one in spec.get("gates", [])
        ),
        places=places,
    )


def _step(step: Any) -> Step:
    network = step.get("network", {"mode": "none", "allow": []})
    secrets = tuple(Secret(one["name"], one["reference"], one["version"]) for one in step.get("secrets", []))
    # What a network or a secret answers is no declared input: such a result is stored only where the step says so.
    reproducible = network["mode"] == "none" and not secrets
    cache = step.get("cache", {"enabled": reproducible, "host": "any"})
    accelerator = step.get("accelerator", {})
    return Step(
        name=step["name"],
        image=step["image"],
        image_digest=step["image"].rsplit("@", 1)[1],
        command=tuple(step["command"]),
        args=tuple(step["args"]),
        dataset_inputs=tuple(DatasetInput(one["name"], one["datasetRef"]) for one in step["inputs"]["datasets"]),
        artifact_inputs=tuple(
            ArtifactInput(one["name"], one["fromStep"], one["artifact"]) for one in step["inputs"]["artifacts"]
        ),
        outputs=tuple(_output(one) for one in step["outputs"]["artifacts"]),
        env=tuple((one["name"], one["value"]) for one in step["env"]),
        resources=Resources(
            cpu_millis=quantity.cpu_millis(step["resources"]["cpu"]),
            memory_bytes=quantity.memory_bytes(step["resources"]["memory"]),
            gpu=step["resources"]["gpu"],
        ),
        retry=_retry(step["retryPolicy"]),
        timeout_seconds=quantity.seconds(step["timeout"]) if "timeout" in step else DEFAULT_TIMEOUT_SECONDS,
        secrets=secrets,
        cache_enabled=cache["enabled"],
        cache_host=cache["host"],
        aslr=step.get("isolation", {"aslr": True})["aslr"],
        network_mode=network["mode"],
        network_allow=tuple(network["allow"]),
        accelerator_kind=accelerator.get("kind", "gpu"),
        accelerator_model=accelerator.get("model"),
    )


def _output(output: Any) -> Output:
    compare = output.get("compare", {"method": "bytes"})
    tolerance = compare.get("tolerance")
    return Output(
        name=output["name"],
        type=output["type"],
        media_type=output.get("mediaType"),
        compare=compare["method"],
        tolerance=None if tolerance is None else float(tolerance),
    )


def _retry(policy: Any) -> Retry:
    backoff = policy["backoff"]
    return Retry(
        max_attempts=policy["maxAttempts"],
        backoff=Backoff(
            type=backoff["type"],
            initial_seconds=backoff["initialSeconds"],
            max_seconds=backoff["maxSeconds"],
            multiplier=float(backoff["multiplier"]),
        ),
    )


def _parameter(parameter: Any) -> Parameter:
    default = parameter.get("default")
    return Parameter(
        name=parameter["name"],
        type=parameter["type"],
        default=None if default is None else parameter_value(parameter["type"], default),
    )
