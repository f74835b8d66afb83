"""A step with a network allow-list, from HTTP to the signed record: placed on the one node that lets out, and no further.

Everything that it reaches is a listener of this test on loopback.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from animus_cli.stack.layout import Layout
from animus_kit.digest import sha256
from animus_kit.documents import dsse
from animus_kit.documents.result import Provenance
from animus_kit.documents.sandbox import SandboxReport
from tests.system.world import Client, Project, pipeline, step, wait_for

NODE = "letting-out"


@pytest.fixture(scope="module")
def far() -> Iterator[str]:
    """What may be reached: answers every request with `from outside`."""
    server = socket.create_server(("127.0.0.1", 0))

    def live() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nfrom outside\n")

    threading.Thread(target=live, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.close()


@pytest.fixture(scope="module")
def node(layout: Layout, operator: Client, far: str) -> Iterator[Path]:
    """A second agent of this machine, with a ceiling. Answers its log."""
    folder = Path(tempfile.mkdtemp(prefix="an-out-", dir="/var/tmp"))
    folder.chmod(0o711)
    environment = {
        "PATH": os.environ["PATH"],
        "ANIMUS_AGENT_STATE_DIR": str(folder / "state"),
        "ANIMUS_AGENT_RUN_DIR": str(folder / "run"),
        "ANIMUS_AGENT_ROOT_KEY": str(layout.pki / "root.pub"),
        "ANIMUS_AGENT_EGRESS_ALLOW": far,
    }
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(operator.ok("POST", "/orchestrator/v1/joinTokens", {"agentId": NODE})["token"])

    def call(*arguments: str) -> None:
        command = [sys.executable, "-m", "animus_agent", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr

    call("enroll", layout.address("enrollment"), "--token-file", str(token))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "animus_agent", "run"], env=environment, stderr=output)
    try:
        path = f"/orchestrator/v1/agents/{NODE}"
        wait_for(lambda: operator.ok("GET", path).get("state") == "STATE_ONLINE", 90, "the node to come online")
        yield log
    finally:
        process.terminate()
        process.wait(60)
        call("purge")
        operator.ok("POST", f"/orchestrator/v1/agents/{NODE}:revoke", {"reason": "the story is over"})
        shutil.rmtree(folder, ignore_errors=True)


def let_out(image: str, script: str, *allow: str) -> dict[str, Any]:
    # Clients go past a proxy for loopback, where this test's destination is.
    env = [{"name": name, "value": ""} for name in ("NO_PROXY", "no_proxy")]
    options = {"network": {"mode": "allow-list", "allow": list(allow)}, "env": env}
    one = step("only", image, script, outputs=["seen"]) | options
    return pipeline(one) | {"apiVersion": "animus/v1"}


def attempt_of(project: Project, run: str) -> Any:
    return project.client.ok("GET", f"/orchestrator/v1/{run}/steps/only/attempts/1")


def test_a_step_is_let_out_where_it_may_and_every_decision_is_in_the_record(
    project: Project, image: str, node: Path, far: str
) -> None:
    script = f"""
        wget -q -O /animus/outputs/seen/answer http://{far}/
        ! wget -q -O - http://169.254.169.254/latest/meta-data
    """
    run = project.submit(project.apply("let-out", let_out(image, script, far)), {})["name"]
    ended = project.wait(run, 120)
    assert ended["state"] == "STATE_SUCCEEDED", (ended, node.read_text()[-3000:])
    attempt = attempt_of(project, run)
    assert attempt["agent"] == f"agents/{NODE}", "the node that lets nobody out must not have it"
    data = base64.b64decode(attempt["sandboxReport"])
    egress = SandboxReport.from_bytes(data).egress
    assert egress is not None and egress.allow == (far,)
    told = {(one.destination, one.reason): one.allowed for one in egress.decisions}
    assert told == {(far, "ALLOWED"): True, ("169.254.169.254:80", "NOT_IN_CONTRACT"): False}
    envelope = base64.b64decode(attempt["provenance"])
    statement = Provenance.from_bytes(dsse.open_unverified(envelope, Provenance.NOUN)[0])
    assert statement.sandbox_report_digest == sha256(data)


def test_a_list_beyond_the_nodes_own_is_refused_before_anything_runs(
    project: Project, image: str, node: Path, far: str
) -> None:
    document = let_out(image, "echo ran > /animus/outputs/seen/x", far, "elsewhere.example.org:443")
    run = project.submit(project.apply("beyond", document), {})["name"]
    assert project.wait(run, 120)["state"] == "STATE_FAILED"
    attempt = attempt_of(project, run)
    assert (attempt["failureClass"], attempt["stateReason"]) == ("FAILURE_CLASS_POLICY", "EGRESS_NOT_ON_NODE")
    assert project.steps(run)["only"]["currentAttempt"] == "1"
