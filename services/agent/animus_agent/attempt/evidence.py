"""What can be shown afterwards: the sandbox report and the signed provenance."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from animus_agent.attempt import egress
from animus_agent.attempt.attempt import Attempt
from animus_agent.sandbox import seccomp
from animus_agent.sandbox.driver import Usage
from animus_kit.digest import sha256
from animus_kit.documents import dsse
from animus_kit.documents.result import Provenance, dependencies_of
from animus_kit.documents.sandbox import SandboxReport


def sandbox_report(attempt: Attempt) -> bytes:
    """What isolation was in force, and what the kernel counted."""
    ports, contract = attempt.ports, attempt.order
    try:
        configuration = hashlib.sha256((attempt.directory.path / "bundle" / "config.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        configuration = None
    profile = seccomp.load()
    runtime = ports.driver.name
    if (version := ports.host.libraries.get(runtime)) is not None:
        runtime = f"{runtime} {version}"
    return SandboxReport(
        attempt=contract.attempt,
        driver=ports.driver.name,
        runtime=runtime,
        configuration_sha256=configuration,
        seccomp_profile=profile.name,
        seccomp_sha256=profile.digest.removeprefix("sha256:"),
        features=ports.features,
        resources=contract.resources,
        limits=contract.limits,
        gpus=contract.gpu_uuids or (),
        counters=_counters(attempt.collected.usage if attempt.collected else Usage()),
        egress=egress.record_of(attempt),
        host=ports.host,
        host_class=ports.host.host_class,
    ).to_bytes()


def provenance(attempt: Attempt) -> bytes:
    """A signed in-toto statement about a success."""
    contract, signer = attempt.order, attempt.ports.signer
    started = attempt.directory.read("run").get("wall")
    now = attempt.ports.clock.now()
    start = datetime.fromtimestamp(started, UTC) if started is not None else now
    statement = Provenance(
        attempt=contract.attempt,
        agent=signer.agent,
        agent_version=signer.version,
        contract_digest=contract.digest,
        plan_digest=contract.plan_digest,
        recipe_digest=contract.recipe_digest,
        action_digest=contract.action_digest,
        dependencies=dependencies_of(contract),
        outputs=tuple(output.digest for output in attempt.outputs),
        metrics=attempt.metrics,
        exit_code=0,
        sandbox_report_digest=sha256(attempt.sandbox_report),
        start_time=start,
        # A clock that was set back during the run must not make the statement absurd.
        end_time=max(now, start),
    )
    return dsse.sign(statement.to_bytes(), Provenance.NOUN, signer.key)


def _counters(usage: Usage) -> dict[str, int]:
    named = {
        "oom-kills": usage.oom_kills,
        "memory-peak-bytes": usage.memory_peak_bytes,
        "pids-limit-hits": usage.pids_limit_hits,
        "cpu-nanoseconds": usage.cpu_nanoseconds,
        "throttled-periods": usage.throttled_periods,
    }
    return {name: value for name, value in named.items() if value is not None}
