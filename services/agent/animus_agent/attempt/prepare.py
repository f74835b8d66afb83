"""From a contract to a container that could start: the volume, the mounts, the exact specification."""

from __future__ import annotations

import json
import os
import resource
from contextlib import suppress
from pathlib import Path

from animus_agent import uids
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import AttemptFailed, FailureClass
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import ContractRefused
from animus_agent.files import write_atomic
from animus_agent.gpu import layer
from animus_agent.gpu.pool import visible_devices
from animus_agent.gpu.provision import Provision
from animus_agent.sandbox import driver
from animus_agent.sandbox.quota import Volume
from animus_agent.trees import identity
from animus_kit.documents import action as action_document
from animus_kit.documents import dsse, manifest
from animus_kit.documents.contract import Contract
from animus_kit.documents.errors import DocumentError

# conmon ends a container by itself when no agent is left to do it, this much after the agent would have.
# It counts the time that a container stood still without a lease, so that it leaves room for an outage.
BACKSTOP_SECONDS = 2 * 3600
# A line of one byte takes fifty in the log's file.
LOG_FILE_FACTOR = 4


def check_supported(contract: Contract, features: set[str], egress: Ceiling) -> None:
    """Refuses what this node cannot give; nothing is silently weakened. Raises ContractRefused."""
    action = contract.action
    missing = sorted(set(contract.required_capabilities) - features)
    if missing:
        raise ContractRefused(f"this node does not have: {', '.join(missing)}", "CAPABILITY_MISSING")
    if action.network.mode != "none":
        if "network-allow-list" not in features:
            raise ContractRefused("this agent gives no network", "NETWORK_UNSUPPORTED")
        if beyond := egress.refused(action.network.allow):
            raise ContractRefused(f"this node does not let out to {', '.join(beyond)[:1000]}", "EGRESS_NOT_ON_NODE")
    if not action.isolation.aslr and "no-aslr" not in features:
        raise ContractRefused("this node cannot turn ASLR off", "ASLR_OFF_UNAVAILABLE")
    if action.secrets:
        raise ContractRefused("this agent gives no secrets", "SECRETS_UNSUPPORTED")
    isolation = action.isolation
    ours = (action_document.HOSTNAME, action_document.UID, action_document.GID, action_document.SECCOMP_PROFILE)
    if (isolation.hostname, isolation.uid, isolation.gid, isolation.seccomp) != ours:
        raise ContractRefused("an isolation that this agent does not know", "ISOLATION_UNSUPPORTED")


def profile_of(kind: str) -> str:
    """Which entries an input's manifest may have."""
    return manifest.DATASET if kind == "dataset" else manifest.ARTIFACT


def hold_contents(attempt: Attempt) -> None:
    """Keeps in the caches what an adopted attempt's container may be using, before any other can have it evicted."""
    with suppress(DocumentError):
        order = Contract.from_bytes(dsse.open_unverified(attempt.contract_envelope, Contract.NOUN)[0])
        attempt.held.enter_context(attempt.ports.images.holding(order.action.image))
        for manifest_digest in order.manifests():
            attempt.held.enter_context(attempt.ports.trees.holding(manifest_digest, order.action.source_date_epoch))


def handle_of(attempt: Attempt) -> driver.Handle | None:
    """Of its container, also where a process before us made it and it is not yet taken over; None before it is made."""
    if attempt.handle is not None:
        return attempt.handle
    marks = attempt.directory.read("sandbox")
    return driver.Handle.from_json(marks["handle"]) if marks else None


def was_started(attempt: Attempt) -> bool:
    """Whether its container ever was: then it may be running now, and everything else waits for its supervision."""
    handle = handle_of(attempt)
    return handle is not None and attempt.ports.driver.status(handle) is not driver.Phase.PREPARED


def prepare(attempt: Attempt) -> None:
    """Takes a volume, writes what the step is given, and lets the driver write its bundle. Repeatable: what a process
    that died had prepared is found again."""
    marks = attempt.directory.read("sandbox")
    if marks and (attempt.ports.quota.kind == "none" or os.path.ismount(marks["volume_path"])):
        attempt.volume_name = marks["volume"]
        attempt.volume = Volume(Path(marks["volume_path"]), marks["volume_bytes"])
        attempt.handle = driver.Handle.from_json(marks["handle"])
        if not attempt.started:
            # Its inputs may have been fetched anew since.
            _mark(attempt)
        return
    if marks and attempt.directory.read("run"):
        # The volume is gone with a reboot, and the container with it.
        attempt.handle = driver.Handle.from_json(marks["handle"])
        raise AttemptFailed(FailureClass.LOST_CONTAINER, "NODE_REBOOTED", "the node was restarted during the run")
    attempt.volume_name, attempt.volume = attempt.ports.quota.take(attempt.order.limits.output_bytes)
    uid_base = uids.base(attempt.ports.uid_block, int(attempt.volume_name[1:]))
    work = _lay_out(attempt, attempt.volume.path, uid_base)
    attempt.handle = attempt.ports.driver.prepare(_specification(attempt, work, uid_base))
    _mark(attempt)


def _mark(attempt: Attempt) -> None:
    assert attempt.volume is not None and attempt.handle is not None
    attempt.directory.mark(
        "sandbox",
        volume=attempt.volume_name,
        volume_path=str(attempt.volume.path),
        volume_bytes=attempt.volume.size_bytes,
        handle=attempt.handle.to_json(),
        trees={mount: identity(tree.path) for mount, tree in attempt.trees.items()},
    )


def mounted(attempt: Attempt, mount: str) -> bool:
    """Whether what lies at an input's path is still what its container was given, and no copy fetched in its place."""
    trees = attempt.directory.read("sandbox").get("trees")
    # None: made ready by an agent that noted none, before this node was upgraded.
    return trees is None or list(identity(attempt.trees[mount].path) or ()) == trees[mount]


def work_folder(volume: Volume) -> Path:
    """What the container sees as /animus."""
    return volume.path / "animus"


def _lay_out(attempt: Attempt, volume: Path, uid_base: int) -> Path:
    """/animus itself belongs to root and is sticky: the step may add its metrics, and rename nothing of ours."""
    action = attempt.order.action
    work = volume / "animus"
    for folder in (work, work / "inputs", work / "outputs"):
        folder.mkdir(exist_ok=True)
    for name in (f"inputs/{one.name}" for one in action.inputs):
        (work / name).mkdir(exist_ok=True)
    if action.code:
        (work / "code").mkdir(exist_ok=True)
    uid = uid_base + action.isolation.uid
    for output in action.outputs:
        path = work / "outputs" / output.name
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, uid, uid)
    parameters = {one.name: one.value for one in action.parameters}
    text = json.dumps(parameters, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(work / "params.json", text.encode(), durable=False, mode=0o444)
    epoch = action.source_date_epoch
    os.utime(work / "params.json", (epoch, epoch))
    for folder in (work / "inputs", work / "outputs"):
        os.chmod(folder, 0o755)
    os.chmod(work, 0o1777)
    return work


def _specification(attempt: Attempt, work: Path, uid_base: int) -> driver.SandboxSpec:
    contract, action = attempt.order, attempt.order.action
    assert attempt.rootfs is not None
    mounts = [driver.Mount(work, "/animus", writable=True)]
    mounts += [
        driver.Mount(attempt.trees[f"inputs/{one.name}"].path, f"/animus/inputs/{one.name}") for one in action.inputs
    ]
    if action.code:
        mounts.append(driver.Mount(attempt.trees["code"].path, "/animus/code", executable=True))
    devices = attempt.ports.gpus.provision(contract.gpu_uuids or ())
    return driver.SandboxSpec(
        id=attempt.directory.id,
        directory=attempt.directory.path,
        rootfs=layer.build(attempt.rootfs.path, attempt.directory.path, devices),
        args=action.argv,
        env=_environment(contract, devices),
        cwd="/animus/code" if action.code else "/",
        limits=driver.Limits(
            memory_bytes=contract.resources.memory_bytes,
            cpu_millis=contract.resources.cpu_millis,
            pids=contract.limits.pids,
            tmp_bytes=contract.limits.tmp_bytes,
            # Shared memory counts against the memory limit, and numeric libraries want much of it.
            shm_bytes=contract.resources.memory_bytes // 2,
            open_files=_open_files(),
        ),
        uid_base=uid_base,
        uid=action.isolation.uid,
        mounts=(*mounts, *devices.mounts),
        devices=devices.devices,
        hooks=devices.hooks,
        backstop_seconds=contract.timeout_seconds + contract.termination_grace_seconds + BACKSTOP_SECONDS,
        log_bytes=contract.limits.log_bytes * LOG_FILE_FACTOR,
        aslr=action.isolation.aslr,
    )


def _environment(contract: Contract, devices: Provision) -> tuple[str, ...]:
    """Exactly the action's; with devices also what names them, which is a fact of the host and so in no digest. What the
    step declares is what it sees, also where it narrows: a declared CUDA_VISIBLE_DEVICES stays."""
    added = dict(devices.env) | visible_devices(contract)
    if devices.library_folders:
        added["LD_LIBRARY_PATH"] = ":".join(devices.library_folders)
    declared = {variable.name: variable.value for variable in contract.action.environment}
    return tuple(f"{name}={value}" for name, value in (added | declared).items())


def _open_files() -> int:
    """Never above the agent's own hard limit, which root without CAP_SYS_RESOURCE cannot raise."""
    return min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
