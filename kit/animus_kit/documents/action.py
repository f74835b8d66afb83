"""The action: everything that may change a step's result, and nothing else (docs/execution.md, "What is in an action").

`recipe_digest` names it when planned, with artifact inputs standing as {producer's recipe, output name};
`action_digest` when every input is known. Both are digests of the same document type: a step that reads no artifact
has one digest under both names.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from .errors import DocumentError
from .kinds import DIGEST, FLAG, LABEL, MEDIA_TYPE, PLATFORM, count, each, int64, one_of, raw_text, record, text
from .shape import Document, Record, field
from .values import Parameter

ENV_NAME = text(256, "[A-Za-z_][A-Za-z0-9_]*")

DEFAULT_SOURCE_DATE_EPOCH = 946684800
"""2000-01-01T00:00:00Z. A constant, so that no clock reaches a result; zip cannot hold times before 1980."""

SECCOMP_PROFILE = "animus-seccomp-v1"
"""Name of the agent's system call list. A list under a name never changes: another list is another name."""

HOSTNAME = "animus"
UID = 65532
GID = 65532

BASE_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}
_WORD_ENDS = re.compile(r"[\s_-]+")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar(Record):
    name: str = field(ENV_NAME)
    value: str = field(raw_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Record):
    """One folder under /animus/inputs: a manifest, or in a recipe `output` of the step with this `recipe`."""

    name: str = field(LABEL)
    manifest: str | None = field(DIGEST, optional=True)
    recipe: str | None = field(DIGEST, optional=True)
    output: str | None = field(LABEL, optional=True)

    def check(self) -> None:
        if (self.manifest is None) == (self.recipe is None) or (self.recipe is None) != (self.output is None):
            raise DocumentError("INPUT_SOURCE", "an input has a manifest, or a recipe and an output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Record):
    """One folder under /animus/outputs."""

    name: str = field(LABEL)
    type: str = field(LABEL)
    media_type: str | None = field(MEDIA_TYPE, optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator(Record):
    """`model` is a declared constraint; which device it was is a host fact."""

    kind: str = field(LABEL)
    count: int = field(count(1, 1024))
    model: str | None = field(text(128), optional=True)

    def takes(self, model: str) -> bool:
        """Whether a device that its driver calls `model` is of the declared model."""
        return self.model is None or is_model(self.model, model)


def is_model(declared: str, model: str) -> bool:
    """A declared model is the driver's name or whole words of it, in any case: `H200` and `nvidia h200` are an
    `NVIDIA H200`, and `H100` is no `H1000`."""
    wanted, found = (_WORD_ENDS.split(text.strip().casefold()) for text in (declared, model))
    return any(found[at : at + len(wanted)] == wanted for at in range(len(found) - len(wanted) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Record):
    """`none`, or `allow-list` with hosts as `name:port`."""

    mode: str = field(one_of("none", "allow-list"))
    allow: tuple[str, ...] = field(each(text(300, r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:[1-9][0-9]{0,4}"), key=str))

    def check(self) -> None:
        if (self.mode == "none") != (not self.allow):
            raise DocumentError("NETWORK_ALLOW", "an allow-list names hosts, and only an allow-list does", "allow")
        if any(int(host.rpartition(":")[2]) > 65535 for host in self.allow):
            raise DocumentError("PATTERN", "a port is at most 65535", "allow")


NO_NETWORK = Network(mode="none", allow=())

EGRESS_PORT = 3128
"""Where the agent's proxy listens on the loopback of a container with an allow-list: its only way out."""

EGRESS_ENVIRONMENT = {
    # Both spellings: tools disagree. Nothing but the proxy is reachable, so that ignoring these reaches nothing.
    **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"), f"http://127.0.0.1:{EGRESS_PORT}"),
    "NO_PROXY": "localhost,127.0.0.1",
    "no_proxy": "localhost,127.0.0.1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef(Record):
    """A secret by reference: its value is never in a document. Found at /animus/secrets/<name>."""

    name: str = field(LABEL)
    reference: str = field(text(512))
    version: str = field(text(128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation(Record):
    """What of the isolation a process can see."""

    aslr: bool = field(FLAG)
    hostname: str = field(LABEL)
    uid: int = field(count(1))
    gid: int = field(count(1))
    seccomp: str = field(text(128, "[a-z0-9][a-z0-9.-]*"))


DEFAULT_ISOLATION = Isolation(aslr=True, hostname=HOSTNAME, uid=UID, gid=GID, seccomp=SECCOMP_PROFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(Document):
    """See the module. `image` is the platform manifest digest, `environment` all that the process sees."""

    NOUN: ClassVar[str] = "action"

    image: str = field(DIGEST)
    platform: str = field(PLATFORM)
    command: tuple[str, ...] = field(each(raw_text()))
    args: tuple[str, ...] = field(each(raw_text()))
    environment: tuple[EnvVar, ...] = field(each(record(EnvVar), key=lambda var: var.name))
    parameters: tuple[Parameter, ...] = field(each(record(Parameter), key=lambda parameter: parameter.name))
    inputs: tuple[Input, ...] = field(each(record(Input), key=lambda one: one.name))
    code: str | None = field(DIGEST, optional=True)
    outputs: tuple[Output, ...] = field(each(record(Output), key=lambda one: one.name))
    threads: int = field(count(1, 4096))
    accelerator: Accelerator | None = field(record(Accelerator), optional=True)
    network: Network = field(record(Network))
    secrets: tuple[SecretRef, ...] = field(each(record(SecretRef), key=lambda secret: secret.name))
    isolation: Isolation = field(record(Isolation))
    source_date_epoch: int = field(int64(minimum=0))

    def check(self) -> None:
        if not self.argv or not self.argv[0]:
            # The image's own entrypoint plays no part: it would be an input that no document shows.
            raise DocumentError("COMMAND_EMPTY", "command and args name no program", "command")

    @property
    def complete(self) -> bool:
        """Whether every input is a manifest, so that the step can run."""
        return all(one.manifest for one in self.inputs)

    def fill(self, manifests: Mapping[str, str]) -> "Action":
        """The action with artifact inputs replaced by manifests, by mount name.

        Raises DocumentError INPUT_UNKNOWN for a name that waits for no manifest.
        """
        waiting = {one.name for one in self.inputs if one.manifest is None}
        if manifests.keys() - waiting:
            raise DocumentError("INPUT_UNKNOWN", "waits for no manifest", min(manifests.keys() - waiting))
        return replace(
            self,
            inputs=tuple(
                Input(name=one.name, manifest=manifests[one.name]) if one.name in manifests else one
                for one in self.inputs
            ),
        )

    @property
    def argv(self) -> tuple[str, ...]:
        return self.command + self.args


def recipe_digest(action: Action) -> str:
    """Digest of the action as planned: artifact inputs may stand as recipes."""
    return action.digest


def action_digest(action: Action) -> str:
    """Digest of an action that can run. Raises DocumentError ACTION_INCOMPLETE."""
    if not action.complete:
        missing = next(index for index, one in enumerate(action.inputs) if one.manifest is None)
        raise DocumentError("ACTION_INCOMPLETE", "has no manifest yet", f"inputs[{missing}]")
    return action.digest


def threads_for(cpu_millis: int) -> int:
    """The thread count we export for a share of cpu: rounded up to whole cores, at least 1."""
    return max(1, math.ceil(cpu_millis / 1000))


def process_environment(
    declared: Iterable[tuple[str, str]], threads: int, epoch: int, network: Network = NO_NETWORK
) -> tuple[EnvVar, ...]:
    """The whole environment of a step's process: ours, overridden by what the step declares.

    The image's own ENV plays no part: it would be an input that no document shows.
    """
    result = dict(BASE_ENVIRONMENT)
    result |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    result["SOURCE_DATE_EPOCH"] = str(epoch)
    if network.mode == "allow-list":
        result |= EGRESS_ENVIRONMENT
    result |= dict(declared)
    return tuple(EnvVar(name=name, value=value) for name, value in result.items())
