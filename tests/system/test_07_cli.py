"""The command line against a running stack: what the README's tour does not show, and every exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from animus_cli.main import app
from animus_cli.stack.layout import Layout
from tests.system.world import Project, pipeline, step, wait_for


@pytest.fixture(scope="module")
def animus(layout: Layout, project: Project) -> Any:
    """Runs a command in this process, since starting fifty would take a minute; answers (exit status, stdout or its
    JSON, stderr)."""
    cleared = {name: None for name in os.environ if name.startswith("ANIMUS_")}
    environment = {**cleared, "ANIMUS_DIR": str(layout.root), "ANIMUS_PROJECT": project.id}
    runner = CliRunner()

    def run(*arguments: object, output: str = "json") -> tuple[int, Any, str]:
        words = [str(a) for a in arguments]
        done = runner.invoke(app, [*words, "--output", output], env=environment)
        answer = json.loads(done.stdout) if output == "json" and done.stdout.startswith("{") else done.stdout
        return done.exit_code, answer, done.stderr

    return run


def ok(result: tuple[int, Any, str]) -> Any:
    status, answer, errors = result
    assert status == 0, errors
    return answer


def reason(result: tuple[int, Any, str]) -> tuple[int, str]:
    return result[0], json.loads(result[2].strip().splitlines()[-1])["error"]["reason"]


@pytest.fixture(scope="module")
def dataset(animus: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of the dataset `words`."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "deep").mkdir()
    (folder / "deep" / "kept").write_text("kept")
    (folder / "changed").write_text("one")
    (folder / "gone").write_text("gone")
    assert ok(animus("dataset", "push", folder, "-d", "words"))["name"].endswith("/versions/v1")
    (folder / "changed").write_text("two!")
    (folder / "gone").unlink()
    (folder / "new").write_text("")
    assert ok(animus("dataset", "push", folder, "-d", "words"))["name"].endswith("/versions/v2")
    return folder


def documents(folder: Path, image: str) -> dict[str, Path]:
    made = {
        "good": pipeline(step("copy", image, "cp /animus/inputs/w/new /animus/outputs/out/new; echo copied",
                              datasets={"w": "words"}, outputs=["out"])),
        "bad": pipeline(step("fail", image, "echo no >&2; exit 3", attempts=1)),
        "slow": pipeline(step("sleep", image, "trap 'exit 143' TERM; sleep 600 & wait")),
    }  # fmt: skip
    paths = {}
    for name, document in made.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(document))
    return paths


@pytest.fixture(scope="module")
def applied(animus: Any, image: str, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = documents(tmp_path_factory.mktemp("pipelines"), image)
    for path in paths.values():
        assert ok(animus("pipeline", "apply", path))["name"].endswith("/versions/v1")
    return paths


@pytest.fixture(scope="module")
def run(animus: Any, applied: dict[str, Path]) -> Any:
    return ok(
        animus(
            "run", "submit", "--pipeline", "good", "--run-id", "r1", "--label", "kind=test", "--code", "none", "--watch"
        )
    )


def test_versions_are_compared_and_downloaded(animus: Any, dataset: Path, tmp_path: Path) -> None:
    changes = ok(animus("dataset", "diff", "words@v1", "words"))["changes"]
    assert {(c["path"], c["kind"]) for c in changes} == {
        ("changed", "KIND_CHANGED"), ("gone", "KIND_REMOVED"), ("new", "KIND_ADDED"),
    }  # fmt: skip
    assert ok(animus("dataset", "download", "words", tmp_path / "copy"))["files"] == 3
    for path in ("deep/kept", "changed", "new"):
        assert (tmp_path / "copy" / path).read_bytes() == (dataset / path).read_bytes()
    assert [e["path"] for e in ok(animus("dataset", "show", "words@v1"))["entries"]] == ["changed", "deep/kept", "gone"]
    assert len(ok(animus("dataset", "list", "words"))["datasetVersions"]) == 2


def test_the_same_folder_again_is_the_same_version(animus: Any, dataset: Path) -> None:
    assert ok(animus("dataset", "push", dataset, "-d", "words"))["name"].endswith("/versions/v2")


def test_a_bad_document_is_told_with_line_and_column(animus: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("apiVersion: animus/v1\nkind: Pipelin\nspecVersion: '1'\nspec:\n  steps: []\n")
    status, told, _ = animus("pipeline", "validate", path, output="table")
    assert status == 1 and "broken.yaml:2:" in told
    status, _, errors = animus("pipeline", "apply", path)
    assert status == 1 and json.loads(errors.splitlines()[-1])["error"]["violations"]
    assert "broken" not in {p["name"].rpartition("/")[2] for p in ok(animus("pipeline", "list"))["pipelines"]}


def test_a_run_its_artifact_and_its_model(animus: Any, run: Any, tmp_path: Path) -> None:
    assert run["run"]["state"] == "STATE_SUCCEEDED"
    assert [r["name"] for r in ok(animus("run", "list", "--state", "succeeded", "--label", "kind=test"))["runs"]] == [
        run["run"]["name"]
    ]
    assert ok(animus("run", "logs", "r1", output="table")) == "copied\n"
    model = ok(animus("model", "register", "copies", "--run", "r1", "--step", "copy", "--output-name", "out"))
    assert ok(animus("model", "show", "copies"))["artifact"] == model["artifact"]
    assert ok(animus("model", "list"))["models"] and ok(animus("model", "list", "copies"))["modelVersions"]
    assert ok(animus("artifact", "list", "--run", "r1"))["artifacts"][0]["name"] == model["artifact"]
    assert ok(animus("artifact", "download", model["artifact"], tmp_path))["files"] == ["new"]
    assert (tmp_path / "new").read_bytes() == b""


def test_a_run_that_fails_is_status_6(animus: Any, applied: dict[str, Path]) -> None:
    status, answer, errors = animus("run", "submit", "--pipeline", "bad", "--run-id", "f1", "--watch")
    assert status == 6 and answer["run"]["state"] == "STATE_FAILED"
    told = json.loads(errors.splitlines()[-1])["error"]
    assert "--step fail" in told["next"]
    assert ok(animus("run", "logs", "f1", "--step", "fail", output="table")) == "no\n"


def test_logs_are_followed_from_before_the_step_begins(animus: Any, applied: dict[str, Path]) -> None:
    ok(animus("run", "submit", "--pipeline", "bad", "--run-id", "early"))
    assert ok(animus("run", "logs", "early", "--step", "fail", "--follow", output="table")) == "no\n"
    assert reason(animus("run", "logs", "early", "--step", "nowhere", "--follow")) == (5, "STEP_NOT_FOUND")


def test_a_run_is_canceled(animus: Any, applied: dict[str, Path]) -> None:
    ok(animus("run", "submit", "--pipeline", "slow", "--run-id", "c1"))
    ok(animus("run", "cancel", "c1"))
    status, answer, _ = animus("run", "watch", "c1")
    assert status == 6 and answer["run"]["state"] == "STATE_CANCELED"


def test_a_bounded_project_waits_and_says_for_what(animus: Any, applied: dict[str, Path], tmp_path: Path) -> None:
    quota = ok(animus("quota", "set", "--runs", "1", "--cpu", "4", "--weight", "2"))
    assert (quota["limits"], quota["weight"]) == ({"cpuMillis": "4000", "activeRuns": "1"}, 2)
    assert animus("quota", "set", "--runs", "9", "--as", "stranger")[0] == 4
    ok(animus("run", "submit", "--pipeline", "slow", "--run-id", "q1", "--priority", "5"))
    ok(animus("run", "submit", "--pipeline", "slow", "--run-id", "q2"))
    waiting = ok(animus("run", "show", "q2"))
    assert (waiting["run"]["state"], waiting["run"]["stateReason"]) == ("STATE_QUEUED", "QUOTA")
    assert "sleep waits, QUOTA" in ok(animus("run", "show", "q2", output="table"))
    assert "active runs" in ok(animus("quota", "show", output="table"))
    ok(animus("run", "cancel", "q1"))
    animus("run", "watch", "q1")
    wait_for(lambda: ok(animus("run", "show", "q2"))["run"]["stateReason"] != "QUOTA", 60, "the second run's turn")
    ok(animus("run", "cancel", "q2"))
    animus("run", "watch", "q2")

    ok(animus("pool", "create", "far", "--description", "nobody is here"))
    assert ok(animus("pool", "update", "far", "--pause"))["paused"]
    assert {p["name"] for p in ok(animus("pool", "list"))["pools"]} == {"pools/default", "pools/far"}
    (planned,) = ok(animus("run", "plan", "--pipeline", "slow", "--pool", "far"))["steps"]
    assert planned["waitReason"] == "UNPLACEABLE"
    assert {o["reason"] for o in planned["obstacles"]} == {"POOL"}
    assert animus("run", "submit", "--pipeline", "slow", "--pool", "nowhere")[0] == 1

    ok(animus("quota", "set", "--runs", "none", "--cpu", "none", "--stored", "1"))
    folder = tmp_path / "more"
    folder.mkdir()

    def push() -> tuple[int, Any, str]:
        (folder / "one").write_text(str(time.monotonic()))  # what is there already takes no room
        return animus("dataset", "push", folder, "-d", "more")

    # The catalog learns it from the log.
    assert wait_for(lambda: _refused(push()), 60, "the refusal") == "STORAGE_QUOTA_EXCEEDED"
    assert reason(animus("run", "submit", "--pipeline", "slow")) == (1, "QUOTA_EXCEEDED")
    ok(animus("quota", "set", "--stored", "none"))
    wait_for(lambda: push()[0] == 0, 60, "room again")


def _refused(result: tuple[int, Any, str]) -> str:
    return reason(result)[1] if result[0] else ""


def test_a_plan_that_changed_is_refused(animus: Any, applied: dict[str, Path]) -> None:
    planned = ok(animus("run", "plan", "--pipeline", "good", "--code", "none"))
    assert planned["planDigest"] and planned["allowed"]
    other = "sha256:" + "0" * 64
    result = animus("run", "submit", "--pipeline", "good", "--code", "none", "--plan", other)
    assert reason(result) == (1, "PLAN_CHANGED")


def test_statuses(animus: Any, applied: dict[str, Path]) -> None:
    assert animus("project", "show", "nowhere-at-all")[0] in (4, 5)
    assert animus("run", "show", "nowhere")[0] == 5
    assert animus("dataset", "list", "--as", "stranger")[0] == 4
    assert reason(animus("run", "submit", "--pipeline", "good", "-d", "nothing=words")) == (1, "DATASET_REF_UNKNOWN")
    assert animus("run", "submit")[0] == 2
    assert animus("project", "create", "NOT A NAME")[0] == 1


def test_roles_are_given_and_taken(animus: Any, project: Project) -> None:
    binding = ok(animus("access", "grant", "user:stranger", "viewer"))
    assert binding["member"] == "user:stranger"
    assert ok(animus("dataset", "list", "--as", "stranger"))
    assert animus("access", "grant", "user:x", "viewer", "--as", "stranger")[0] == 4
    ok(animus("access", "revoke", binding["name"]))
    members = [b["member"] for b in ok(animus("access", "list"))["roleBindings"]]
    assert "user:stranger" not in members


def test_agents_and_the_log(animus: Any, run: Any) -> None:
    agents = ok(animus("agent", "list"))["agents"]
    assert [a["name"] for a in agents] == ["agents/local"]
    isolation = {c["name"]: c["available"] for c in ok(animus("agent", "show", "local"))["claimed"]["capabilities"]}
    assert isolation["network-none"] and isolation["seccomp"] and isolation["memory-limit"]
    token = ok(animus("agent", "join", "another", "--minutes", "1"))
    assert token["token"].startswith("animus1.") and token["agent"] == "agents/another"
    events = ok(animus("audit", "list", "--type", "orchestrator.run."))["events"]
    assert events and all(e["type"].startswith("orchestrator.run.") for e in events)
    assert {s["source"] for s in ok(animus("audit", "sources"))["sources"]} >= {"catalog", "orchestrator", "policy"}
    graph = ok(animus("lineage", "down", "datasets/words/versions/v2"))
    assert any(node["kind"] == "artifact" for node in graph["nodes"])


def test_a_login_and_a_doctor(animus: Any, layout: Layout, tmp_path: Path) -> None:
    token = ok(animus("token"))["token"]
    (tmp_path / "token").write_text(token)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def fresh(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "animus_cli.main", *(str(w) for w in words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    done = fresh("login", layout.endpoint, "--token-file", tmp_path / "token", "--ca", layout.services_ca)
    assert done.returncode == 0, done.stderr
    assert fresh("project", "list").returncode == 0
    checks = json.loads(fresh("doctor", "-o", "json").stdout)["checks"]
    assert {c["name"]: c["ok"] for c in checks}["gateway"] is True
    (tmp_path / "token").write_text(token[:-4] + "AAAA")
    assert fresh("project", "list").returncode == 4
