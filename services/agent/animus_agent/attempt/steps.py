"""The steps of an attempt. Each may be repeated: after a crash the list is run again from its beginning.

An attempt runs its container at most once. What a step finds done (a tree in the cache, a container that runs or has
ended) it takes over; a container whose end nobody saw is LOST, never started again. Once it was started, nothing is
fetched or hashed before `run`, which alone watches it; `verify_inputs_again` hashes every input after its end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from animus_agent.attempt import evidence, outputs, prepare, running
from animus_agent.attempt.attempt import Attempt
from animus_agent.attempt.failure import REBOOTED, STALE, Abandoned, AttemptFailed, Failure, FailureClass
from animus_agent.attempt.ports import Result
from animus_agent.errors import (
    AgentError,
    BlobError,
    CommandNotRunnable,
    ContractRefused,
    ImageRefused,
    OutputRefused,
)
from animus_agent.files import is_full
from animus_agent.gpu import layer
from animus_agent.sandbox.driver import Handle, Phase
from animus_kit.documents import manifest
from animus_kit.documents.contract import open_contract
from animus_kit.documents.errors import DocumentError

Step = Callable[[Attempt], None]
# A killed container's processes end within this, unless one hangs in the kernel.
DEAD_WITHIN_SECONDS = 10.0


def verify_contract(attempt: Attempt) -> None:
    """Signature, agent, grant and action; then whether this node can give what it asks."""
    ports = attempt.ports
    attempt.ports.reporter.state("PREPARING")
    try:
        order, grant = open_contract(
            attempt.contract_envelope, attempt.grant_envelope, ports.contract_keys(), ports.signer.agent
        )
    except DocumentError as error:
        raise ContractRefused(str(error), error.reason) from error
    if order.attempt != attempt.name:
        raise ContractRefused(f"the contract is for {order.attempt}", "WRONG_ATTEMPT")
    attempt.contract, attempt.grant = order, grant
    enforced = {feature.name for feature in ports.features if feature.enforced}
    prepare.check_supported(order, enforced, ports.egress)
    ports.gpus.claim(order, check=attempt.check)


def fetch_inputs(attempt: Attempt) -> None:
    attempt.started = prepare.was_started(attempt)
    action, trees = attempt.order.action, attempt.ports.trees
    kinds = {one.name: prepare.profile_of(one.kind) for one in attempt.order.inputs}
    wanted = [(f"inputs/{one.name}", one.manifest, kinds[one.name]) for one in action.inputs]
    if action.code:
        wanted.append(("code", action.code, manifest.CODE))
    epoch = action.source_date_epoch
    for mount, digest, profile in wanted:
        assert digest is not None
        attempt.held.enter_context(trees.holding(digest, epoch))
        if attempt.started:
            attempt.trees[mount] = trees.at(digest, epoch, profile)
            continue
        attempt.trees[mount] = trees.get(digest, epoch, profile, attempt.ports.source, attempt.check)
        attempt.check()


def verify_inputs(attempt: Attempt) -> None:
    """Trees of earlier attempts are hashed again; one that is damaged is fetched anew, once."""
    if attempt.started:
        return
    for mount, tree in attempt.trees.items():
        if tree.fresh or attempt.ports.trees.verify(tree, attempt.check):
            continue
        epoch = attempt.order.action.source_date_epoch
        again = attempt.ports.trees.get(tree.digest, epoch, tree.profile, attempt.ports.source, attempt.check)
        if not attempt.ports.trees.verify(again, attempt.check):
            raise AttemptFailed(FailureClass.INFRASTRUCTURE, "INPUT_DAMAGED", f"{mount} does not keep its digest")
        attempt.trees[mount] = again


def unpack_image(attempt: Attempt) -> None:
    action, images = attempt.order.action, attempt.ports.images
    attempt.held.enter_context(images.holding(action.image))
    if attempt.started:
        return
    attempt.rootfs = images.get(action.image, action.platform, attempt.ports.source, attempt.check)
    attempt.check()


def prepare_sandbox(attempt: Attempt) -> None:
    prepare.prepare(attempt)


def run(attempt: Attempt) -> None:
    running.run(attempt)


def verify_inputs_again(attempt: Attempt) -> None:
    """What changed under a running step makes its result worthless: TAINTED. Also where another attempt found it first,
    and a good copy lies there now."""
    for mount, tree in attempt.trees.items():
        if not attempt.ports.trees.verify(tree, attempt.check) or not prepare.mounted(attempt, mount):
            raise AttemptFailed(FailureClass.TAINTED, "INPUT_CHANGED", f"{mount} changed while the step ran")


def hash_outputs(attempt: Attempt) -> None:
    outputs.hash_outputs(attempt)


def upload(attempt: Attempt) -> None:
    outputs.upload(attempt)


def sign_provenance(attempt: Attempt) -> None:
    attempt.sandbox_report = evidence.sandbox_report(attempt)
    attempt.provenance = evidence.provenance(attempt)


def report(attempt: Attempt) -> None:
    """The one step that also follows a failure."""
    if attempt.failure is None and not attempt.provenance:
        # It came here by an error that nobody caught, and nothing says that it ran, let alone well.
        attempt.failure = Failure(FailureClass.INFRASTRUCTURE, "AGENT_INTERNAL", "the attempt's steps broke off")
        running.end(attempt)
    _let_go_of_devices(attempt)
    if attempt.failure is not None and attempt.contract is not None:
        # A failure is told without one rather than not: what it is made of may be torn, after a power cut.
        with suppress(AgentError, DocumentError, OSError, ValueError):
            attempt.sandbox_report = evidence.sandbox_report(attempt)
    collected = attempt.collected
    log_size = attempt.ports.reporter.log_cursor().text
    succeeded = attempt.failure is None
    attempt.ports.reporter.result(
        Result(
            failure=attempt.failure,
            exit_code=_exit_code(attempt) if collected else None,
            outputs=tuple(output.digest for output in attempt.outputs) if succeeded else (),
            metrics=attempt.metrics if succeeded else {},
            sandbox_report=attempt.sandbox_report,
            provenance=attempt.provenance if succeeded else b"",
            log_size_bytes=log_size,
        )
    )
    if succeeded:
        outputs.keep(attempt)


STEPS: tuple[Step, ...] = (
    verify_contract,
    fetch_inputs,
    verify_inputs,
    unpack_image,
    prepare_sandbox,
    run,
    verify_inputs_again,
    hash_outputs,
    upload,
    sign_provenance,
    report,
)


def execute(attempt: Attempt, between: Callable[[str], None] = lambda name: None) -> None:
    """Runs the list. Returns when the result is with the reporter, or without one when the attempt was abandoned; in
    either case no process of its container is left.

    An error of the report itself is raised: the caller repeats `report` until it is kept. `between` is called with the
    name of each step before it.
    """
    intent = attempt.directory.kill_intent()
    if attempt.rebooted:
        # Whatever it was doing ended with the machine. It may have run, so it never runs again.
        attempt.failure = intent or REBOOTED
        with suppress(AgentError, DocumentError):
            verify_contract(attempt)
        running.end(attempt)
        running.ship_rest(attempt)
    if intent is not None:
        # Of a process before us.
        attempt.wake.set()
        attempt.abandoned = intent == STALE
    try:
        attempt.check_abandoned()
        for step in STEPS:
            if attempt.failure is not None and step is not report:
                continue
            between(step.__name__)
            try:
                step(attempt)
            except Abandoned:
                raise
            except Exception as error:
                if step is report:
                    raise
                attempt.failure = classify(error)
                running.end(attempt)
                running.ship_rest(attempt)
            attempt.check_abandoned()
    except Abandoned:
        running.end(attempt)
    finally:
        attempt.held.close()


def clean_up(attempt: Attempt) -> None:
    """Removes the container and its volume; off the path, after the report. The folder stays until it is forgotten."""
    marks = attempt.directory.read("sandbox")
    # Without a mark, what this process had taken before its preparation failed: nobody else knows of it.
    handle = Handle.from_json(marks["handle"]) if marks else attempt.handle
    volume = marks["volume"] if marks else attempt.volume_name
    if handle is not None:
        attempt.ports.driver.destroy(handle)
    if volume:
        attempt.ports.quota.give_back(volume)
    layer.remove(attempt.directory.path)
    attempt.ports.gpus.release(attempt.name)


def classify(error: Exception) -> Failure:
    """The table of docs/execution.md, "Failure classes", as far as the agent decides it."""
    # Names out of an image or an output may be no text at all.
    message = str(error).encode("utf-8", "backslashreplace").decode()[:4000]
    match error:
        case AttemptFailed():
            return error.failure
        case ImageRefused(reason="IMAGE_DIGEST_MISMATCH"):
            # Bytes that were damaged on their way or where they lie; nobody wrote such an image.
            return Failure(FailureClass.INFRASTRUCTURE, error.reason, message)
        case OutputRefused() | CommandNotRunnable() | ImageRefused():
            return Failure(FailureClass.USER_ERROR, error.reason, message)
        case BlobError(reason="STORAGE_QUOTA_EXCEEDED"):
            # Another attempt would be refused as well.
            return Failure(FailureClass.POLICY, error.reason, message)
        case ContractRefused(reason="EGRESS_NOT_ON_NODE"):
            # The rule of whoever runs the nodes; asking again changes nothing.
            return Failure(FailureClass.POLICY, error.reason, message)
        case BlobError() | AgentError():
            return Failure(FailureClass.INFRASTRUCTURE, error.reason, message)
        case OSError():
            reason = "NODE_DISK_FULL" if is_full(error) else "NODE_IO_ERROR"
            return Failure(FailureClass.INFRASTRUCTURE, reason, message)
        case _:
            kind = f"{type(error).__name__}: {message}"
            return Failure(FailureClass.INFRASTRUCTURE, "AGENT_INTERNAL", kind)


def _let_go_of_devices(attempt: Attempt) -> None:
    """Before the result is told, which lets the server give them to the next attempt: as soon as the container is known
    to be dead. Where nobody knows, they stay taken until it is destroyed."""
    gpus, handle = attempt.ports.gpus, attempt.handle
    if not gpus.has(attempt.name):
        return
    gpus.ending(attempt.name)
    if handle is None or attempt.ports.driver.status(handle, DEAD_WITHIN_SECONDS) in (Phase.PREPARED, Phase.EXITED):
        gpus.release(attempt.name)


def _exit_code(attempt: Attempt) -> int | None:
    """Absent where we or the kernel's memory limit killed it: 137 would say nothing."""
    assert attempt.collected is not None
    code = attempt.collected.exit_code
    own = attempt.failure is None or attempt.failure.failure_class is FailureClass.USER_ERROR
    return code if own or (code is not None and code < 128) else None
