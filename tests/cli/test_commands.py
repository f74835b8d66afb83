"""The command line without a gateway: help, usage, exit codes, the offline authority."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from animus_cli import base, exits, requirements
from animus_cli.main import app
from animus_client.errors import ClientError
from animus_kit import pki as kit_pki
from animus_kit.errors import FieldViolation
from animus_kit.status import RemoteError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command as somebody who has configured nothing."""
    for name in [n for n in os.environ if n.startswith("ANIMUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ANIMUS_DIR", str(tmp_path / "stack"))
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


def commands(command: Any = None, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        return [leaf for name, inner in command.commands.items() for leaf in commands(inner, (*path, name))]
    return [(path, command)]


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda it: " ".join(it) if isinstance(it, tuple) else "")
def test_every_command_explains_itself(path: tuple[str, ...], command: Any) -> None:
    assert command.help, path
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--output" in options, path


def test_every_command_of_the_product_is_there() -> None:
    found = {" ".join(path) for path, _ in commands()}
    wanted = {
        "up", "down", "status", "login", "token", "doctor", "project create", "project list", "project show",
        "dataset push", "dataset list", "dataset show", "dataset diff", "code push", "image import", "pipeline apply",
        "pipeline validate", "pipeline show", "run plan", "run submit", "run watch", "run logs", "run list", "run show",
        "run cancel", "model register", "model list", "model show", "artifact list", "artifact download", "lineage up",
        "lineage down", "audit list", "agent join", "agent list", "agent show", "agent cordon",
        "agent uncordon", "agent drain", "agent revoke", "agent attempts", "agent logs", "agent tokens",
        "agent revoke-token", "pool list", "pool create", "pool update", "quota show", "quota set", "pki init", "pki issue",
    }  # fmt: skip
    assert wanted <= found


def test_without_a_gateway_it_says_what_to_do(run: Any) -> None:
    done = run("project", "list")
    assert done.exit_code == exits.REQUIREMENT
    assert "NOT_CONFIGURED" in done.stderr and "animus up" in done.stderr
    done = run("project", "list", "--output", "json")
    assert json.loads(done.stderr)["error"]["reason"] == "NOT_CONFIGURED" and done.stdout == ""


def test_sizes_are_read_as_people_write_them() -> None:
    from animus_cli.commands.quota import size

    assert [size(t) for t in ("4096", "1.5G", "64Gi", "2TiB", "1k")] == [4096, 1_500_000_000, 64 << 30, 2 << 40, 1000]
    for wrong in ("", "many", "-1", "1Pi"):
        with pytest.raises(base.Stop):
            size(wrong)


def test_a_quota_or_pool_is_not_changed_by_saying_nothing(run: Any) -> None:
    assert run("quota", "set", "--project", "p").exit_code == exits.USAGE
    assert run("quota", "set", "--project", "p", "--cpu", "much").exit_code == exits.USAGE
    assert run("pool", "update", "p").exit_code == exits.USAGE
    assert run("pool", "update", "p", "--pause", "--resume").exit_code == exits.USAGE


def test_usage_is_status_2(run: Any) -> None:
    assert run("project", "create").exit_code == exits.USAGE
    assert run("nonsense").exit_code == exits.USAGE
    assert run("dataset", "push", ".").exit_code == exits.USAGE


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("INVALID_ARGUMENT", exits.ERROR),
        ("PERMISSION_DENIED", exits.DENIED),
        ("UNAUTHENTICATED", exits.DENIED),
        ("NOT_FOUND", exits.NOT_FOUND),
        ("UNAVAILABLE", exits.UNAVAILABLE),
    ],
)
def test_errors_name_field_reason_and_next_step(code: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = RemoteError(
        code,
        "PROJECT_EXISTS",
        "taken \x1b[31mred",
        request_id="r-1",
        violations=[FieldViolation("project_id", "TAKEN", "is taken")],
    )
    with pytest.raises(typer.Exit) as caught, base.handled():
        raise error
    assert caught.value.exit_code == status
    told = capsys.readouterr().err
    assert "\x1b" not in told
    for part in ("project_id: is taken [TAKEN]", "reason: PROJECT_EXISTS", "request: r-1", "next: choose another id"):
        assert part in told


def test_a_field_that_the_message_names_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), base.handled():
        raise RemoteError(
            "INVALID_ARGUMENT",
            "X",
            "a: no",
            violations=[FieldViolation("a", "R", "no"), FieldViolation("b", "R", "nor")],
        )
    assert capsys.readouterr().err.splitlines()[:2] == ["error: a: no", "  b: nor [R]"]


def test_a_run_that_nobody_can_take_says_what_it_waits_for() -> None:
    from animus.orchestrator.v1 import run_pb2
    from animus_cli.commands.run import waits

    plan = run_pb2.PlanRunResponse()
    plan.steps.add(step="a", wait_reason="NO_AGENT", placement_message="no such pool")
    plan.steps.add(step="b", wait_reason="BUSY", eligible_agents=2)
    assert waits(plan.steps) == ["a waits: NO_AGENT no such pool"]


def test_errors_of_this_side(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, base.handled():
        raise ClientError("LFS_POINTER", "big is a pointer")
    assert caught.value.exit_code == exits.ERROR and "next: git lfs" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    script = """
import typer
from animus_cli import base
try:
    with base.handled():
        for _ in range(10000):
            print("x" * 100, flush=True)
except typer.Exit as ended:
    raise SystemExit(ended.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_machine_that_lacks_something_is_status_3(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "missing", lambda: ["missing: runc (apt-get install runc)"])
    done = run("up", "--detach")
    assert done.exit_code == exits.REQUIREMENT and "apt-get install runc" in done.stderr
    assert run("doctor").exit_code == exits.REQUIREMENT


@pytest.mark.parametrize("cut_before", ["_write_bundle", "replace", "second replace"])
def test_a_rotation_that_was_cut_off_is_gone_on_with(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_before: str
) -> None:
    folder = tmp_path / "authority"
    assert run("pki", "init", "--dir", folder).exit_code == 0
    before = (folder / "contract.key").read_bytes()
    replace, replaced = Path.replace, []

    def cut(path: Path, target: Path) -> Path:
        replaced.append(path)
        if len(replaced) == (2 if cut_before == "second replace" else 1):
            raise KeyboardInterrupt
        return replace(path, target)

    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if cut_before == "_write_bundle":
            patch.setattr("animus_cli.commands.pki._write_bundle", interrupted)
        else:
            patch.setattr(Path, "replace", cut)
        assert run("pki", "rotate", "contract", "--dir", folder).exit_code != 0
    assert run("pki", "rotate", "contract", "--dir", folder).exit_code == 0
    shown = json.loads(run("pki", "show", "--dir", folder, "--output", "json").stdout)
    assert (shown["sequence"], len(shown["keys"])) == (2, 3)
    assert (folder / "contract.previous.key").read_bytes() == before
    current = kit_pki.load_signing_key((folder / "contract.key").read_bytes()).public_key()
    assert kit_pki.key_id(current)[:16] in {key for _, key in shown["keys"]}
    assert not (folder / "contract.next.key").exists()


def test_an_offline_authority(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    assert run("pki", "init", "--dir", folder, "--trust-domain", "corp.example").exit_code == 0
    assert run("pki", "init", "--dir", folder).exit_code == exits.ERROR, "a root is never overwritten"
    assert (folder / "root.key").stat().st_mode & 0o777 == 0o600
    first = json.loads(run("pki", "show", "--dir", folder, "--output", "json").stdout)
    assert (first["trustDomain"], first["sequence"], len(first["keys"])) == ("corp.example", 1, 2)
    assert run("pki", "rotate", "contract", "--dir", folder).exit_code == 0
    second = json.loads(run("pki", "show", "--dir", folder, "--output", "json").stdout)
    assert second["root"] == first["root"] and second["sequence"] == 2 and len(second["keys"]) == 3
    assert run("pki", "rotate", "contract", "--dir", folder).exit_code == 0
    third = json.loads(run("pki", "show", "--dir", folder, "--output", "json").stdout)
    # A key that was retired stays: what it signed is verified with it.
    assert third["sequence"] == 3 and {tuple(key) for key in second["keys"]} < {tuple(key) for key in third["keys"]}

    assert run("pki", "issue", "catalog", "--dir", folder).exit_code == 0
    assert run("pki", "issue", "public", "--dir", folder).exit_code == exits.USAGE
    assert run("pki", "issue", "public", "--dir", folder, "--dns", "animus.corp.example").exit_code == 0
    from cryptography import x509

    found = x509.load_pem_x509_certificate((folder / "catalog" / "tls.crt").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://corp.example/service/catalog"]
    assert names.get_values_for_type(x509.DNSName) == ["catalog.corp.example"]


def test_the_stack_lives_in_one_folder(run: Any, tmp_path: Path) -> None:
    assert run("down").exit_code == 0, "nothing runs, nothing to end"
    assert "there is no stack" in run("down", "--dir", "nowhere").stdout
    done = run("status")
    assert done.exit_code == exits.UNAVAILABLE and "NO_STACK" in done.stderr
    assert not (tmp_path / "stack").exists(), "looking changes nothing"


def test_completion(tmp_path: Path) -> None:
    environment = {**os.environ, "_ANIMUS_COMPLETE": "complete_bash", "COMP_WORDS": "animus run ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [Path(sys.executable).parent / "animus"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert "submit" in done.stdout.split()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from animus_cli import main; import typer; typer.main.get_command(main.app);"
        "print([m for m in ('grpc', 'cryptography', 'rich.table', 'sqlalchemy', 'alembic', 'psycopg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_cannot_be_read_is_named(run: Any, tmp_path: Path) -> None:
    done = run("pipeline", "apply", tmp_path / "absent.yaml", "--project", "a")
    assert done.exit_code == exits.ERROR
    assert "absent.yaml: No such file or directory" in done.stderr and "ENOENT" in done.stderr
    done = run("pki", "show", "--dir", tmp_path)
    assert done.exit_code == exits.ERROR and "PKI_MISSING" in done.stderr and "Errno" not in done.stderr


def test_what_is_not_found_on_this_side_has_the_same_status(run: Any) -> None:
    for reason in ("DATASET_NOT_FOUND", "REVISION_NOT_FOUND"):
        with pytest.raises(typer.Exit) as caught, base.handled():
            raise ClientError(reason, "x")
        assert caught.value.exit_code == exits.NOT_FOUND
