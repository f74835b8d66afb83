"""Nodes are taken out of service while they work: drained, emptied in a hurry, revoked. A second agent is the victim."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from animus.catalog.v1 import agent_blob_pb2, agent_blob_pb2_grpc
from animus_cli.main import app
from animus_cli.stack.layout import AGENT, TRUST_DOMAIN, Layout
from animus_kit.channel import dial
from animus_kit.digest import sha256
from animus_kit.status import from_rpc_error
from animus_kit.tls import TlsFiles
from tests.system.world import Client, Project, pipeline, step, wait_for

NODE = "spare"
SECONDS = 20.0
"""For what is promised within seconds, on a machine that does much else."""


@dataclass
class Node:
    """Another agent on this machine, joined as any node would be. It may be revoked and is gone afterwards."""

    layout: Layout
    operator: Client
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "animus_agent", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "ANIMUS_AGENT_STATE_DIR": str(self.folder / "state"),
            "ANIMUS_AGENT_RUN_DIR": str(self.folder / "run"),
            "ANIMUS_AGENT_ROOT_KEY": str(self.layout.pki / "root.pub"),
        }

    def join(self) -> None:
        body = {"agentId": NODE, "labels": {"rack": "7"}}
        token = self.operator.ok("POST", "/orchestrator/v1/joinTokens", body)["token"]
        file = self.folder / "token"
        file.touch(mode=0o600)
        file.write_text(token)
        self.call("enroll", self.layout.address("enrollment"), "--token-file", str(file))
        self.start()
        wait_for(lambda: self.shown()["state"] == "STATE_ONLINE", 30, "the second agent")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command("run"), env=self.environment, stderr=log)

    def call(self, *arguments: str) -> None:
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def shown(self, agent: str = NODE) -> Any:
        return self.operator.ok("GET", f"/orchestrator/v1/agents/{agent}")

    def decide(self, verb: str, agent: str = NODE, **body: Any) -> Any:
        return self.operator.ok("POST", f"/orchestrator/v1/agents/{agent}:{verb}", body)

    def animus(self, *words: str) -> Any:
        """The command line, as the operator would use it; answers its JSON."""
        cleared = {name: None for name in os.environ if name.startswith("ANIMUS_")}
        environment = {**cleared, "ANIMUS_DIR": str(self.layout.root)}
        done = CliRunner().invoke(app, ["agent", *words, "--output", "json"], env=environment)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def tls(self) -> TlsFiles:
        home = self.folder / "state" / "identity"
        return TlsFiles(home / "current" / "tls.crt", home / "current" / "tls.key", home / "services-ca.pem")

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        self.call("purge")


@pytest.fixture(scope="module")
def node(layout: Layout, operator: Client) -> Iterator[Node]:
    """The second agent. The stack's own gets no work meanwhile, and all of it again afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="animus-node-", dir="/var/tmp"))
    folder.chmod(0o711)
    made = Node(layout, operator, folder)
    try:
        made.join()
        made.decide("cordon", AGENT, reason="the other one is to work")
        yield made
    finally:
        made.decide("uncordon", AGENT)
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def versions(project: Project, image: str) -> dict[str, str]:
    """Pipeline versions: one that works a while and writes, one that goes on until it is stopped."""
    work = "sleep {}; echo done > /animus/outputs/out/n"
    return {
        "short": project.apply("short", pipeline(step("only", image, work.format(2), outputs=["out"]))),
        "longer": project.apply("longer", pipeline(step("only", image, work.format(12), outputs=["out"]))),
        "endless": project.apply("endless", pipeline(step("only", image, "sleep 600 & wait", attempts=1))),
        "twice": project.apply("twice", pipeline(step("only", image, "sleep 600 & wait", attempts=2))),
    }


def attempts(operator: Client, run: str) -> list[Any]:
    return operator.ok("GET", f"/orchestrator/v1/{run}/steps/only/attempts").get("attempts", [])


def running_on(operator: Client, run: str, agent: str) -> Any:
    return next(
        (a for a in attempts(operator, run) if a["state"] == "STATE_RUNNING" and a["agent"] == f"agents/{agent}"), None
    )


def test_a_drained_node_finishes_what_it_runs(operator: Client, project: Project, node: Node, versions: Any) -> None:
    run = project.submit(versions["short"], {})["name"]
    wait_for(lambda: running_on(operator, run, NODE), 60, "the run to be on the second agent")
    drained = node.decide("drain", reason="new memory")
    assert drained["state"] == "STATE_DRAINING" and drained["stateMessage"] == "new memory"
    waiting = project.submit(versions["short"], {})["name"]
    assert project.wait(run)["state"] == "STATE_SUCCEEDED"
    assert {a["agent"] for a in attempts(operator, run)} == {f"agents/{NODE}"}
    wait_for(lambda: node.shown()["state"] == "STATE_DRAINED", SECONDS, "the node to be empty")
    assert not attempts(operator, waiting), "nobody takes new work"
    node.decide("uncordon")
    assert project.wait(waiting)["state"] == "STATE_SUCCEEDED"


def test_after_the_deadline_what_still_runs_goes_elsewhere(
    operator: Client, project: Project, node: Node, versions: Any
) -> None:
    run = project.submit(versions["twice"], {})["name"]
    wait_for(lambda: running_on(operator, run, NODE), 60, "the run to be on the second agent")
    node.decide("uncordon", AGENT)
    # Waits until it is empty, which it is when what ran there was stopped.
    assert node.animus("drain", NODE, "--grace", "1s", "--wait")["state"] == "STATE_DRAINED"
    wait_for(lambda: running_on(operator, run, AGENT), 60, "the run to be on the stack's own agent")
    first = next(a for a in attempts(operator, run) if a["agent"] == f"agents/{NODE}")
    assert (first["state"], first["failureClass"]) == ("STATE_FAILED", "FAILURE_CLASS_PREEMPTED")
    assert first["stateReason"] == "DRAIN_DEADLINE_PASSED"
    operator.ok("POST", f"/orchestrator/v1/{run}:cancel", {})
    assert project.wait(run)["state"] == "STATE_CANCELED"


def test_the_agent_tells_what_it_does(operator: Client, node: Node) -> None:
    lines = wait_for(
        lambda: operator.ok("GET", f"/orchestrator/v1/agents/{NODE}/logs", pageSize=500).get("lines"), 30, "lines"
    )
    assert "session opened" in {line["message"] for line in lines}


def test_a_revoked_node_is_out_within_seconds_and_its_runs_end_rightly(
    layout: Layout, operator: Client, project: Project, node: Node, versions: Any
) -> None:
    node.decide("cordon", AGENT, reason="the other one is to work")
    node.decide("uncordon")
    once = project.submit(versions["endless"], {})["name"]
    again = project.submit(versions["longer"], {})["name"]
    for run in (once, again):
        wait_for(lambda run=run: running_on(operator, run, NODE), 60, f"{run} to be on the second agent")
    signed = operator.ok("GET", f"/orchestrator/v1/agents/{NODE}/attempts", signedOnly="true")["attempts"]
    assert len(signed) == 2 and all(one["provenanceDigest"].startswith("sha256:") for one in signed)

    assert node.process is not None
    began = time.monotonic()
    told = node.animus("revoke", NODE, "--reason", "found on a market", "--yes")
    assert (told["agent"]["state"], told["agent"]["stateReason"]) == ("STATE_REVOKED", "REVOKED")
    assert [one["attempt"] for one in told["signed"]] == [one["attempt"] for one in signed]
    assert node.process.wait(SECONDS) == 4, "its stream was cut, and it knows why"
    assert time.monotonic() - began < SECONDS
    ended = project.wait(once, 30)
    assert ended["state"] == "STATE_FAILED"
    (lost,) = attempts(operator, once)
    assert (lost["state"], lost["failureClass"]) == ("STATE_LOST", "FAILURE_CLASS_LOST_NODE")
    assert lost["stateReason"] == "AGENT_REVOKED"

    # Its certificate is good for a day, and nobody takes it: neither dispatch nor the catalog.
    wait_for(lambda: blob_refusal(layout, node) == "AGENT_REVOKED", SECONDS, "the catalog to hear of it")
    node.start()
    assert node.process.wait(60) == 4, "dispatch lets it in no more"
    # What it signed while it was trusted is still listed for whoever has to judge it, and nothing came after.
    after = operator.ok("GET", f"/orchestrator/v1/agents/{NODE}/attempts", signedOnly="true")["attempts"]
    assert after == signed
    for one in after:
        full = operator.ok("GET", f"/orchestrator/v1/{one['attempt']}")
        assert one["provenanceDigest"] == sha256(base64_bytes(full["provenance"]))

    # The other run goes on where it may, once the lease of the lost attempt has run out.
    node.decide("uncordon", AGENT)
    assert project.wait(again, 150)["state"] == "STATE_SUCCEEDED"
    by_agent = {a["agent"]: a["state"] for a in attempts(operator, again)}
    assert by_agent == {f"agents/{NODE}": "STATE_LOST", f"agents/{AGENT}": "STATE_SUCCEEDED"}

    def in_the_log() -> bool:
        wanted = {"filter.types": "orchestrator.agent.revoked", "filter.resource": f"agents/{NODE}"}
        return len(operator.ok("GET", "/audit/v1/events", **wanted).get("events", [])) == 1

    wait_for(in_the_log, 30, "the log to know")


def blob_refusal(layout: Layout, node: Node) -> str:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = dial(layout.address("catalog-agent"), "catalog", node.tls(), TRUST_DOMAIN, options=options)
    try:
        request = agent_blob_pb2.StatBlobRequest(grant=b"{}", digest=sha256(b""))
        agent_blob_pb2_grpc.AgentBlobServiceStub(channel).StatBlob(request, timeout=10)
    except grpc.RpcError as error:
        return from_rpc_error(error).reason
    finally:
        channel.close()
    return ""


def base64_bytes(text: str) -> bytes:
    return base64.b64decode(text)
