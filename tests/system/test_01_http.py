"""Everything with HTTP and JSON alone: the way of curl, of CI and of any language."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from typing import Any

import pytest

from animus_cli.stack.layout import Layout
from tests.system.world import Answer, Client, Project, pipeline, step, wait_for

TEXT = b"".join(b"line %d\n" % number for number in range(100))


@pytest.fixture(scope="module")
def run(project: Project, image: str) -> Any:
    """Two steps joined by an artifact; succeeded."""
    version = project.push_dataset("words", {"words.txt": TEXT, "more/empty": b""})
    count = step(
        "count",
        image,
        "echo counting; wc -l < /animus/inputs/words/words.txt > /animus/outputs/number/n; echo '{\"lines\": 100}' > /animus/metrics.json",
        datasets={"words": "words"},
        outputs=["number"],
    )
    double = step(
        "double",
        image,
        "echo $(( $(cat /animus/inputs/n/n) * 2 )) > /animus/outputs/result/n; cat /animus/outputs/result/n; echo warned >&2",
        artifacts={"n": ("count", "number")},
        outputs=["result"],
    )
    applied = project.apply("double", pipeline(count, double, dependencies=[("count", "double")]))
    submitted = project.submit(applied, {"words": version}, runId="first")
    assert submitted["name"] == f"{project.name}/runs/first"
    ended = project.wait(submitted["name"])
    assert ended["state"] == "STATE_SUCCEEDED", ended
    return ended


def test_projects_are_listed_and_created(operator: Client, project: Project) -> None:
    listed = operator.ok("GET", "/catalog/v1/projects")["projects"]
    assert project.name in [found["name"] for found in listed]
    again = operator.send("POST", "/catalog/v1/projects", {}, query={"projectId": project.id})
    assert (again.status, again.reason) == (409, "PROJECT_EXISTS")


def test_a_run_has_steps_outputs_and_metrics(project: Project, run: Any) -> None:
    steps = project.steps(run["name"])
    assert {name: found["state"] for name, found in steps.items()} == dict.fromkeys(
        ("count", "double"), "STATE_SUCCEEDED"
    )
    assert steps["count"]["metrics"] == [{"name": "lines", "value": 100}]
    output = steps["double"]["outputs"][0]
    assert output["artifact"].startswith(f"{project.name}/artifacts/first-double-result-")


def test_logs_are_followed_by_stream(operator: Client, run: Any) -> None:
    with operator.lines(f"/orchestrator/v1/{run['name']}/steps/double/attempts/1:logs", follow="true") as lines:
        chunks = list(lines)
    assert chunks[-1].get("final") is True
    text = b"".join(base64.b64decode(chunk.get("data", "")) for chunk in chunks)
    assert b"200\n" in text and b"warned\n" in text


def test_a_watch_ends_with_a_final_message(operator: Client, run: Any) -> None:
    with operator.lines(f"/orchestrator/v1/{run['name']}:watch") as lines:
        messages = list(lines)
    assert messages[-1].get("final") is True
    assert messages[0]["run"]["state"] == "STATE_SUCCEEDED"


def artifact(project: Project, run: Any, step: str) -> Any:
    """A step's only artifact. Artifacts follow the commit through the log."""
    name = project.steps(run["name"])[step]["outputs"][0]["artifact"]

    def probe() -> Any:
        answer = project.client.send("GET", f"/catalog/v1/{name}")
        return answer.json if answer.status == 200 else None

    return wait_for(probe, 20, name)


def test_an_artifact_is_downloaded_by_stream(operator: Client, project: Project, run: Any) -> None:
    found = artifact(project, run, "double")
    answer = operator.send("GET", f"/catalog/v1/{found['name']}:download", query={"path": "n"})
    assert answer.body == b"200\n"
    assert answer.headers["animus-digest"] == "sha256:" + hashlib.sha256(b"200\n").hexdigest()


def test_a_model_and_its_origin(operator: Client, project: Project, run: Any) -> None:
    found = artifact(project, run, "double")
    operator.ok("POST", f"/catalog/v1/{project.name}/models", {}, modelId="doubler")
    body = {"artifact": found["name"]}
    version = operator.ok("POST", f"/catalog/v1/{project.name}/models/doubler/versions", body)
    assert (version["run"], version["state"]) == (run["name"], "STATE_REGISTERED")

    def upstream() -> set[str]:
        answer = operator.send("GET", f"/lineage/v1/{version['name']}:upstream")
        names = {node["name"] for node in answer.json.get("nodes", [])} if answer.status == 200 else set()
        return names if f"{project.name}/datasets/words/versions/v1" in names else set()

    names = wait_for(upstream, 20, "the model's lineage")
    assert artifact(project, run, "count")["name"] in names


def test_the_log_tells_what_happened(operator: Client, project: Project, run: Any) -> None:
    def types() -> list[str]:
        found = operator.ok("GET", f"/audit/v1/{project.name}/events", pageSize=500)["events"]
        seen = [event["type"] for event in found]
        return seen if "orchestrator.run.succeeded" in seen else []

    seen = wait_for(types, 20, "the run's end in the log")
    for expected in (
        "catalog.project.created",
        "catalog.dataset-version.created",
        "catalog.environment-lock.created",
        "orchestrator.pipeline-version.created",
        "policy.decision.made",
        "orchestrator.run.created",
        "orchestrator.attempt.leased",
        "orchestrator.attempt.committed",
    ):
        assert expected in seen, expected


def refused(answer: Answer, status: int, reason: str = "") -> None:
    """One shape for every error, whoever made it."""
    assert answer.status == status, f"{answer.status} {answer.body!r}"
    assert isinstance(answer.json["code"], int)
    assert isinstance(answer.json["message"], str)
    if reason:
        assert answer.reason == reason


def test_without_a_token_nobody_is_let_in(operator: Client) -> None:
    refused(operator.send("GET", "/catalog/v1/projects", anonymous=True), 401)
    bad = operator.send("GET", "/catalog/v1/projects", headers={"Authorization": "Bearer not.a.token"})
    refused(bad, 401)


def test_another_project_is_refused_and_the_refusal_is_an_event(
    layout: Layout, operator: Client, project: Project
) -> None:
    mallory = Client(layout, "mallory", ())
    refused(mallory.send("GET", f"/catalog/v1/{project.name}"), 403, "PERMISSION_DENIED")
    refused(mallory.send("GET", f"/orchestrator/v1/{project.name}/runs"), 403, "PERMISSION_DENIED")
    refused(mallory.send("GET", "/catalog/v1/projects/there-is-none"), 403, "PERMISSION_DENIED")
    assert mallory.ok("GET", "/catalog/v1/projects").get("projects", []) == []

    def denied() -> bool:
        found = operator.ok("GET", f"/audit/v1/{project.name}/events", pageSize=500)["events"]
        return any(
            event["type"].endswith(".access.denied") and b"mallory" in base64.b64decode(event["payload"])
            for event in found
        )

    wait_for(denied, 20, "the denial in the log")


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status"),
    [
        ("POST", "/catalog/v1/projects", b"{", {"projectId": "x"}, 400),
        ("POST", "/catalog/v1/projects", b'{"labels": 7}', {"projectId": "x"}, 400),
        ("POST", "/catalog/v1/projects", b"{}", {"projectId": "Not A Name"}, 400),
        ("GET", "/catalog/v1/projects", None, {"pageSizes": "1"}, 400),
        ("GET", "/catalog/v1/projects", None, {"pageSize": "-1"}, 400),
        ("GET", "/catalog/v1/projects", None, {"pageSize": "many"}, 400),
        ("GET", "/catalog/v1/projects", None, {"pageToken": "nonsense"}, 400),
        ("GET", "/catalog/v1/projects/UPPER", None, {}, 400),
        ("GET", "/catalog/v1/projects/%ff", None, {}, 400),
        ("GET", "/catalog/v1/projects/a:b", None, {}, 400),
        ("GET", "/catalog/v1/nothing", None, {}, 404),
        ("GET", "/nothing", None, {}, 404),
        ("PUT", "/catalog/v1/projects", b"{}", {}, 404),
        ("POST", "/catalog/v1/projects", b'{"description": "' + b"x" * (2 << 20) + b'"}', {"projectId": "x"}, 413),
        ("GET", "/catalog/v1/projects/test-01-http/datasets/none", None, {}, 404),
        ("POST", "/animus.policy.v1.AccessService/CheckAccess", b"{}", {}, 404),
    ],
)
def test_bad_requests_are_located(
    operator: Client, project: Project, method: str, path: str, body: Any, query: dict[str, str], status: int
) -> None:
    answer = operator.send(method, path, body, query=query)
    refused(answer, status)
    assert answer.status < 500


def test_unknown_json_fields_are_dropped_as_documented(operator: Client, project: Project) -> None:
    answer = operator.ok("POST", f"/catalog/v1/{project.name}/experiments", {"no": "such"}, experimentId="odd")
    assert answer["name"].endswith("/experiments/odd")


def test_curl_does_it_too(layout: Layout, operator: Client, project: Project) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    done = subprocess.run(
        [
            curl, "--silent", "--show-error", "--cacert", layout.services_ca,
            "--header", f"Authorization: Bearer {operator.bearer()}", f"{layout.endpoint}/catalog/v1/{project.name}",
        ],
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert json.loads(done.stdout)["name"] == project.name
