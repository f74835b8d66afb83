"""Another language with the repository's protos and nothing else of ours: @grpc/grpc-js through the gateway."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from animus_cli.stack import issuer
from animus_cli.stack.layout import Layout
from tests.system.world import Project, pipeline, step

HERE = Path(__file__).parent / "node"
PROTO = Path(__file__).parents[2] / "proto"
CONTENT = b"x" * 3_000_000


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """@grpc/grpc-js, kept between runs; without node, npm or a package registry the story is skipped."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} on the PATH")
    wanted = (HERE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "animus" / "node"
    folder = cache / hashlib.sha256(wanted).hexdigest()[:16]
    if not (folder / "node_modules" / "@grpc" / "proto-loader").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_bytes(wanted)
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=100)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip("needs @grpc/grpc-js, which npm could not install here")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def seen(node_modules: Path, layout: Layout, project: Project, image: str) -> Any:
    script = "echo hello from the step; head -c 3000000 /dev/zero | tr '\\0' x > /animus/outputs/result/x"
    version = project.apply("node", pipeline(step("only", image, script, outputs=["result"])))
    packages = ("catalog", "orchestrator")
    task = {
        "target": layout.address("gateway"),
        "ca": str(layout.services_ca),
        "token": issuer.mint(layout, issuer.OPERATOR, [issuer.ADMINISTRATORS], datetime.now(UTC)),
        "strangerToken": issuer.mint(layout, "stranger", [], datetime.now(UTC)),
        "protos": [str(p.relative_to(PROTO)) for name in packages for p in sorted((PROTO / "animus" / name).rglob("*.proto"))],
        "includeDirs": [str(PROTO), str(PROTO / "third_party")],
        "project": project.name,
        "newProject": "made-from-node",
        "pipelineVersion": version,
        "step": "only",
    }  # fmt: skip
    environment = {**os.environ, "NODE_PATH": str(node_modules)}
    done = subprocess.run(
        ["node", HERE / "client.js"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_projects(seen: Any) -> None:
    assert seen["created"] == "projects/made-from-node"
    assert seen["created"] in seen["projects"]


def test_a_run_is_submitted_watched_and_its_log_read(seen: Any) -> None:
    assert seen["final"] is True and seen["state"] == "STATE_SUCCEEDED"
    assert seen["log"] == "hello from the step\n"


def test_an_artifact_is_downloaded_by_stream(seen: Any) -> None:
    assert seen["bytes"] == len(CONTENT) and seen["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_refusals_are_statuses(seen: Any) -> None:
    assert seen["withoutToken"]["code"] == "UNAUTHENTICATED"
    assert seen["ofAStranger"] == {"code": "PERMISSION_DENIED", "hasDetails": True}
    assert seen["badName"] == {"code": "INVALID_ARGUMENT", "hasDetails": True}
