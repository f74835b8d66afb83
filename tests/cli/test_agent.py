"""`animus agent`: what is asked of the service, and what people see. The answers are made up; the story is in tests/system."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from animus.orchestrator.v1 import agent_pb2 as pb
from animus_cli import exits
from animus_cli.commands import agent
from animus_cli.main import app


class FakeAgents:
    """Remembers requests; answers with `answers[method]`, one after the other, the last for ever."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, list[Any]] = {}

    @property
    def agents_api(self) -> Any:
        return SimpleNamespace(**{method.name: method.name for method in _SERVICE.methods})

    def call(self, method: str, request: Any) -> Any:
        self.asked.append((method, request))
        answers = self.answers[method]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def pages(self, method: str, request: Any, field: str, limit: int | None = None) -> Iterator[Any]:
        copy = type(request)()
        copy.CopyFrom(request)
        yield from list(getattr(self.call(method, copy), field))[:limit]


_SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAgents:
    it = FakeAgents()
    monkeypatch.setattr(agent, "client", lambda _: contextlib.nullcontext(it))
    monkeypatch.setattr(agent, "time", SimpleNamespace(sleep=lambda _: None))
    return it


def run(*words: str, **more: Any) -> Any:
    return CliRunner().invoke(app, ["agent", *words], **more)


NODE = pb.Agent(name="agents/n1", state="STATE_REVOKED", state_reason="REVOKED", state_message="found on a market")
SIGNED = pb.AgentAttempt(
    attempt="projects/p/runs/r/steps/s/attempts/1", state="STATE_SUCCEEDED", provenance_digest="sha256:" + "a" * 64
)


def test_revoking_asks_and_prints_what_was_ever_signed(fake: FakeAgents) -> None:
    fake.answers = {"RevokeAgent": [NODE], "ListAgentAttempts": [pb.ListAgentAttemptsResponse(attempts=[SIGNED])]}
    done = run("revoke", "n1", "--reason", "found on a market")
    assert done.exit_code == exits.USAGE and "--yes" in done.stderr and not fake.asked
    assert run("revoke", "n1", "--yes").exit_code == exits.USAGE, "a revocation says why"
    done = run("revoke", "n1", "--reason", "found on a market", "--yes")
    assert done.exit_code == 0
    for part in ("REVOKED", "found on a market", "results that it signed: 1", SIGNED.attempt, SIGNED.provenance_digest):
        assert part in done.stdout
    (_, asked), (_, listed) = fake.asked
    assert (asked.name, asked.reason) == ("agents/n1", "found on a market") and listed.signed_only
    told = json.loads(run("revoke", "agents/n1", "-r", "x", "-y", "--output", "json").stdout)
    assert told["agent"]["state"] == "STATE_REVOKED" and told["signed"][0]["attempt"] == SIGNED.attempt


@pytest.mark.parametrize(("grace", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("0s", 0)])
def test_a_drain_may_have_an_end(fake: FakeAgents, grace: str, seconds: int) -> None:
    fake.answers = {"DrainAgent": [pb.Agent(name="agents/n1", state="STATE_DRAINING")]}
    assert run("drain", "n1", "--grace", grace).exit_code == 0
    ((_, asked),) = fake.asked
    assert asked.HasField("grace") and asked.grace.seconds == seconds


def test_a_drain_can_be_waited_for(fake: FakeAgents) -> None:
    draining = pb.Agent(name="agents/n1", state="STATE_DRAINING", attempts=["projects/p/runs/r/steps/s/attempts/1"])
    fake.answers = {"DrainAgent": [draining], "GetAgent": [draining, pb.Agent(name="agents/n1", state="STATE_DRAINED")]}
    done = run("drain", "n1", "--wait")
    assert done.exit_code == 0 and "DRAINED" in done.stdout and "1 to end" in done.stderr
    assert not fake.asked[0][1].HasField("grace")
    fake.answers = {"DrainAgent": [draining], "GetAgent": [pb.Agent(name="agents/n1", state="STATE_ONLINE")]}
    assert run("drain", "n1", "--wait").exit_code == exits.ERROR, "somebody uncordoned it meanwhile"
    assert run("drain", "n1", "--grace", "soon").exit_code == exits.USAGE


def test_cordon_and_uncordon(fake: FakeAgents) -> None:
    cordoned = pb.Agent(name="agents/n1", state="STATE_CORDONED", state_reason="CORDONED", state_message="\x1b[1mfan")
    fake.answers = {"CordonAgent": [cordoned], "UncordonAgent": [pb.Agent(name="agents/n1", state="STATE_ONLINE")]}
    done = run("cordon", "n1", "--reason", "fan")
    assert "CORDONED" in done.stdout and "\x1b" not in done.stdout
    assert run("uncordon", "n1").exit_code == 0
    assert [method for method, _ in fake.asked] == ["CordonAgent", "UncordonAgent"]


def test_lists_say_why_an_agent_gets_no_work(fake: FakeAgents) -> None:
    fake.answers = {"ListAgents": [pb.ListAgentsResponse(agents=[NODE])]}
    done = run("list", "--state", "revoked", "--state", "cordoned")
    assert "REVOKED found on a market" in done.stdout
    assert list(fake.asked[0][1].states) == [pb.Agent.STATE_REVOKED, pb.Agent.STATE_CORDONED]
    done = run("list", "--state", "asleep")
    assert done.exit_code == exits.USAGE and "cordoned" in done.stderr


def test_join_fixes_pool_projects_and_labels(fake: FakeAgents) -> None:
    fake.answers = {"CreateJoinToken": [pb.CreateJoinTokenResponse(token="animus1.a.b.c", agent="agents/n1")]}
    words = ["n1", "--pool", "gpu", "-p", "a", "--project", "projects/b", "--label", "zone=z1", "--label", "rack=7"]
    done = run("join", *words)
    ((_, asked),) = fake.asked
    assert (asked.pool, list(asked.projects)) == ("gpu", ["projects/a", "projects/b"])
    assert dict(asked.labels) == {"zone": "z1", "rack": "7"} and not asked.replace_identity
    assert "animus1.a.b.c" in done.stdout and "animus-agent enroll HOST:PORT --token-file FILE" in done.stdout
    assert run("join", "n1", "--replace").exit_code == 0 and fake.asked[-1][1].replace_identity
    assert run("join", "n1", "--label", "zone").exit_code == exits.USAGE


def test_tokens_are_listed_and_taken_back(fake: FakeAgents) -> None:
    token = pb.JoinToken(name="joinTokens/t1", state="STATE_ACTIVE", agent="agents/n1", pool="gpu")
    fake.answers = {"ListJoinTokens": [pb.ListJoinTokensResponse(join_tokens=[token])], "RevokeJoinToken": [token]}
    assert "joinTokens/t1" in run("tokens", "--agent", "n1").stdout
    assert run("revoke-token", "t1").exit_code == 0
    assert [asked.name for method, asked in fake.asked if method == "RevokeJoinToken"] == ["joinTokens/t1"]


def test_log_lines_are_shown_oldest_first_and_without_escapes(fake: FakeAgents) -> None:
    lines = [
        pb.AgentLogLine(index=9, level="LEVEL_ERROR", message="it \x1b[31mbroke", fields='{"a":"b"}', dropped_before=3),
        pb.AgentLogLine(index=8, level="LEVEL_INFO", message="it began"),
    ]
    fake.answers = {"ListAgentLogs": [pb.ListAgentLogsResponse(lines=lines)]}
    done = run("logs", "n1", "--level", "warning")
    assert done.exit_code == 0 and "\x1b" not in done.stdout
    shown = done.stdout.splitlines()
    assert "it began" in shown[0] and shown[1] == "[3 lines were left out]"
    assert "ERROR" in shown[2] and "a=b" in shown[2]
    assert fake.asked[0][1].min_level == 2
    assert run("logs", "n1", "--level", "loud").exit_code == exits.USAGE
    assert json.loads(run("logs", "n1", "--output", "json").stdout.splitlines()[0])["index"] == "8"
