"""Steps that try to get out: each blocked, each recorded, each shown to succeed where nothing holds it (`make escape`)."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from animus_agent.attempt import steps
from animus_agent.testing import MemoryReporter, World
from animus_kit.digest import sha256
from animus_kit.documents import manifest
from animus_kit.documents.result import open_provenance
from animus_kit.documents.sandbox import SandboxReport
from animus_kit.testing.fixtures import requires_runc
from tests.escape.cases import CASES, Case
from tests.escape.conftest import ABSENT, Host, Runner
from tests.escape.outside import Told, held, parse

pytestmark = requires_runc


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocked_and_recorded(
    case: Case, runner: Runner, host: Host, record_property: Callable[[str, object], None]
) -> None:
    record_property("case", case.name)
    record_property("tried", case.tried)
    reporter = runner.run(case)
    (result,) = reporter.results
    told = parse(reporter.text.decode(errors="replace")).get(case.probe or case.name)
    failure = result.failure
    if case.stopped:
        assert told is not None, (failure, reporter.text[-2000:])
        assert not told["possible"], told
        assert told["how"] in case.stopped, told
    assert (failure and (str(failure.failure_class), failure.reason)) == case.failure, reporter.text[-2000:]
    assert host.victim.poll() is None
    # The record: the report is part of every result, and the statement about a success holds its digest.
    report = SandboxReport.from_bytes(result.sandbox_report)
    assert report.configuration_sha256 and report.seccomp_sha256 and {f.name for f in report.features if f.enforced}
    recorded = []
    if case.counter:
        assert report.counters[case.counter], report.counters
        recorded.append(f"counter {case.counter} = {report.counters[case.counter]}")
    if failure is None:
        statement, _ = open_provenance(result.provenance, [runner.world.attestation_key.public_key()])
        assert statement.sandbox_report_digest == sha256(result.sandbox_report)
        recorded.insert(0, "log")
    else:
        assert not result.outputs and not result.provenance
        recorded.insert(0, f"{failure.failure_class} {failure.reason}")
    record_property("blocked", told["how"] if told and case.stopped else f"{failure.reason if failure else ''}")
    record_property("recorded", ", ".join(recorded))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_probe_succeeds_without_the_protection(
    case: Case,
    runner: Runner,
    bare: Told,
    outside: Callable[[Case], dict[str, Any]],
    host: Host,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("control", case.name)
    name = case.probe or case.name
    if case.needs and case.needs not in held():
        record_property("shown", f"not shown: the tests run without CAP_{case.needs}")
        pytest.skip(f"needs CAP_{case.needs}, which these tests do not hold")
    if case.control == "room":
        reporter = runner.run(case, room=True)
        assert reporter.results[0].failure is None, (reporter.results[0].failure, reporter.text[-2000:])
        told = parse(reporter.text.decode(errors="replace"))[name]
    elif case.control == "bare":
        told = bare[name]
    else:
        told = outside(case)
    if not told["possible"] and told["how"] in ABSENT:
        record_property("shown", f"not shown: {told['how']}, this machine does not have it")
        pytest.skip(f"this machine does not have what {case.name} tries: {told['how']}")
    assert told["possible"], told
    record_property("shown", f"{case.control}: {told['how']}"[:60])


def test_a_setuid_output_comes_back_as_a_plain_program(runner: Runner) -> None:
    case = next(case for case in CASES if case.name == "output-hard-link")
    result = runner.run(case, room=True).results[0]
    (output,) = result.outputs
    entries = manifest.loads(runner.world.blobs.written[output.manifest], manifest.ARTIFACT)
    assert [(entry.path, entry.kind) for entry in entries] == [("plain", "file"), ("x", "executable")]


def _attempt(world: World, *command: str) -> MemoryReporter:
    reporter = MemoryReporter()
    attempt = world.attempt(world.order(*command), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    return reporter


def test_a_step_that_names_the_runtime_itself_cannot_change_it(world: World) -> None:
    """CVE-2019-5736: the image's command is the runtime's own program, by /proc/self/exe."""
    programs = [Path(shutil.which(name) or f"/usr/sbin/{name}").resolve() for name in ("runc", "conmon")]
    before = [hashlib.sha256(one.read_bytes()).hexdigest() for one in programs]
    for command in (("/proc/self/exe", "--version"), ("/proc/1/exe", "--version")):
        (result,) = _attempt(world, *command).results
        assert result.sandbox_report or result.failure is not None
    assert [hashlib.sha256(one.read_bytes()).hexdigest() for one in programs] == before


def test_a_command_finds_no_open_folder_of_the_host(world: World) -> None:
    """CVE-2024-21626: a descriptor of the host that the runtime left open, used as a way to a program out there."""
    program = world.root / "outside"
    program.write_text("#!/bin/sh\necho outside\n")
    program.chmod(0o755)
    for number in range(3, 16):
        reporter = _attempt(world, f"/proc/self/fd/{number}" + "/.." * 12 + str(program))
        failure = reporter.results[0].failure
        assert failure is not None and b"outside\n" not in reporter.text, (number, reporter.text)
        assert failure.reason == "COMMAND_NOT_RUNNABLE", failure
