"""animus agent"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import (
    Labels,
    Limit,
    Stop,
    Subject,
    answer,
    assignments,
    client,
    command,
    group,
    say,
    wants_json,
)

app = group("Agents, which run steps on their nodes.")

Agent = Annotated[str, typer.Argument(help="The agent's id.")]
Pool = Annotated[str, typer.Option(help="Its pool.")]
Projects = Annotated[
    list[str], typer.Option("--project", "-p", help="Only work of these projects; may be repeated.", show_default=False)
]
Why = Annotated[str, typer.Option("--reason", "-r", help="Shown with the agent, and kept in the log.")]

POLL_SECONDS = 1.0


@command(app)
def join(
    agent: Annotated[str, typer.Argument(help="The name it will have; made by the server if absent.")] = "",
    pool: Pool = "",
    project: Projects = [],
    label: Labels = [],
    minutes: Annotated[int, typer.Option(min=1, max=60, help="How long the token holds.")] = 15,
    replace: Annotated[
        bool, typer.Option("--replace", help="For an agent that exists: its node enrols again, with new keys.")
    ] = False,
    as_: Subject = "",
) -> None:
    """Make a token with which one node may join, once. It is shown now and never again.

    Pool, projects and labels come from the token alone: nothing that the node says of itself changes them.
    """
    from google.protobuf import duration_pb2

    from animus.orchestrator.v1 import agent_pb2

    request = agent_pb2.CreateJoinTokenRequest(
        agent_id=agent.removeprefix("agents/"),
        pool=pool,
        projects=[p if p.startswith("projects/") else f"projects/{p}" for p in project],
        labels=assignments(label, "a label"),
        ttl=duration_pb2.Duration(seconds=minutes * 60),
        replace_identity=replace,
    )
    with client(as_) as it:
        found = it.call(it.agents_api.CreateJoinToken, request)

    def human() -> None:
        show.pairs([("agent", found.agent), ("token", found.token), ("until", show.moment(found.expire_time))])
        print("\non the node, with the token in a file of mode 0600:")
        again = " --replace   # while it does not run" if replace else ""
        print(f"  animus-agent enroll HOST:PORT --token-file FILE{again}")
        print("HOST:PORT is dispatch's enrolment listener; `animus status` shows it as enrollment for a local stack")

    answer(found, human)


@command(app)
def tokens(
    agent: Annotated[str, typer.Option("--agent", help="Only tokens for this agent.")] = "",
    limit: Limit = 50,
    as_: Subject = "",
) -> None:
    """Join tokens that were made, newest first. Their secrets are not among it."""
    from animus.orchestrator.v1 import agent_pb2

    request = agent_pb2.ListJoinTokensRequest(agent=_name(agent) if agent else "")
    with client(as_) as it:
        found = list(it.pages(it.agents_api.ListJoinTokens, request, "join_tokens", limit))
    rows = [
        (t.name, show.state(t), t.agent, t.pool, _projects(t.projects), t.creator, show.moment(t.expire_time))
        for t in found
    ]
    columns = ["token", "state", "agent", "pool", "projects", "creator", "until"]
    answer({"joinTokens": found}, lambda: show.table(columns, rows))


@command(app, "revoke-token")
def revoke_token(
    token: Annotated[str, typer.Argument(help="Its id, as `tokens` shows it.")], as_: Subject = ""
) -> None:
    """Take back a join token that nobody has used yet."""
    from animus.orchestrator.v1 import agent_pb2

    name = token if token.startswith("joinTokens/") else f"joinTokens/{token}"
    with client(as_) as it:
        found = it.call(it.agents_api.RevokeJoinToken, agent_pb2.RevokeJoinTokenRequest(name=name))
    answer(found, lambda: print(f"{found.name}: {show.state(found)}"))


@command(app, "list")
def list_(
    pool: Annotated[str, typer.Option(help="Only agents of this pool.")] = "",
    state: Annotated[list[str], typer.Option(help="Only agents in this state, for example cordoned.")] = [],
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """Agents and what they hold."""
    from animus.orchestrator.v1 import agent_pb2

    states = dict(agent_pb2.Agent.State.items())
    for given in state:
        if f"STATE_{given.upper()}" not in states:
            known = ", ".join(sorted(name.removeprefix("STATE_").lower() for name in states))
            raise Stop(exits.USAGE, f"no state {given!r}; there are {known}", "USAGE")
    request = agent_pb2.ListAgentsRequest(pool=pool, states=[states[f"STATE_{given.upper()}"] for given in state])
    with client(as_) as it:
        found = list(it.pages(it.agents_api.ListAgents, request, "agents", limit))
    rows = [
        (a.name, show.state(a), f"{a.state_reason} {a.state_message}".strip(), a.pool, a.claimed.platform, f"{a.claimed.cpu_millis / 1000:g}", show.size(a.claimed.memory_bytes), len(a.attempts), show.moment(a.last_seen_time))
        for a in found
    ]  # fmt: skip
    columns = ["agent", "state", "reason", "pool", "platform", ">cpu", ">memory", ">attempts", "last seen"]
    answer({"agents": found}, lambda: show.table(columns, rows))


@command(app, "show")
def show_(agent: Agent, as_: Subject = "") -> None:
    """One agent with what its canaries found."""
    with client(as_) as it:
        found = _get(it, agent)

    def human() -> None:
        _summary(found)
        print()
        rows = [(c.name, "yes" if c.available else "no", c.message) for c in found.claimed.capabilities]
        show.table(["isolation", "found", "why not"], rows)

    answer(found, human)


@command(app)
def cordon(agent: Agent, reason: Why, as_: Subject = "") -> None:
    """Give it no new work. What it runs goes on."""
    from animus.orchestrator.v1 import agent_pb2

    with client(as_) as it:
        found = it.call(it.agents_api.CordonAgent, agent_pb2.CordonAgentRequest(name=_name(agent), reason=reason))
    answer(found, lambda: _summary(found))


@command(app)
def uncordon(agent: Agent, as_: Subject = "") -> None:
    """Give it work again: ends a cordon and a drain."""
    from animus.orchestrator.v1 import agent_pb2

    with client(as_) as it:
        found = it.call(it.agents_api.UncordonAgent, agent_pb2.UncordonAgentRequest(name=_name(agent)))
    answer(found, lambda: _summary(found))


@command(app)
def drain(
    agent: Agent,
    reason: Why = "",
    grace: Annotated[
        str,
        typer.Option(
            help="30s, 10m, 2h, 1d: after it, what still runs is stopped, and retried elsewhere if the step has attempts "
            "left. Without it: no limit."
        ),
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when it is empty.")] = False,
    as_: Subject = "",
) -> None:
    """Empty it: no new work, and what it runs is finished. DRAINED means that the node may be taken away."""
    from animus.orchestrator.v1 import agent_pb2

    request = agent_pb2.DrainAgentRequest(name=_name(agent), reason=reason)
    if grace:
        request.grace.seconds = _seconds(grace)
    with client(as_) as it:
        found = it.call(it.agents_api.DrainAgent, request)
        held = -1
        while wait and show.state(found) == "DRAINING":
            if held != len(found.attempts):
                held = len(found.attempts)
                say(f"{found.name}: {held} to end")
            time.sleep(POLL_SECONDS)
            found = _get(it, agent)
    answer(found, lambda: _summary(found))
    if wait and show.state(found) != "DRAINED":
        raise Stop(exits.ERROR, f"{found.name} is {show.state(found)}", found.state_reason)


@command(app)
def revoke(
    agent: Agent,
    reason: Why,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_: Subject = "",
) -> None:
    """Throw it out, for ever: its stream is cut, its certificates are refused, what it runs is lost.

    Lost steps are retried elsewhere, if they have attempts left.

    Prints every attempt whose result it signed, to be judged by you: what it committed before stays.
    """
    from animus.orchestrator.v1 import agent_pb2

    name = _name(agent)
    if not yes:
        if wants_json() or not sys.stdin.isatty():
            raise Stop(exits.USAGE, "there is no way back: say --yes", "NOT_CONFIRMED")
        if not typer.confirm(f"revoke {name}? There is no way back", err=True):
            raise Stop(exits.ERROR, "not revoked", "NOT_CONFIRMED")
    with client(as_) as it:
        found = it.call(it.agents_api.RevokeAgent, agent_pb2.RevokeAgentRequest(name=name, reason=reason))
        signed = _attempts(it, name, signed=True, limit=None)

    def human() -> None:
        _summary(found)
        print(f"\nresults that it signed: {len(signed)}")
        if signed:
            _attempt_table(signed)

    answer({"agent": found, "signed": signed}, human)


@command(app)
def attempts(
    agent: Agent,
    signed: Annotated[bool, typer.Option("--signed", help="Only those whose result it signed.")] = False,
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """Every attempt it was ever given, newest first, with the digest of what it signed."""
    with client(as_) as it:
        found = _attempts(it, _name(agent), signed=signed, limit=limit)
    answer({"attempts": found}, lambda: _attempt_table(found))


@command(app)
def logs(
    agent: Agent,
    level: Annotated[str, typer.Option(help="This level or a more serious one: info, warning, error.")] = "info",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """The newest lines of its own log. The output of steps is in `animus run logs`."""
    from animus.orchestrator.v1 import agent_pb2
    from animus.type.v1 import list_order_pb2

    levels = {"info": 1, "warning": 2, "error": 3}
    if level.lower() not in levels:
        raise Stop(exits.USAGE, f"no level {level!r}; there are {', '.join(levels)}", "USAGE")
    request = agent_pb2.ListAgentLogsRequest(parent=_name(agent), min_level=levels[level.lower()])  # type: ignore[arg-type]
    with client(as_) as it:
        found = list(it.pages(it.agents_api.ListAgentLogs, request, "lines", limit))[::-1]
        for line in found:
            _print_line(line)
        request.order_by = list_order_pb2.LIST_ORDER_CREATE_TIME_ASC
        request.after_index = found[-1].index if found else 0
        while follow:
            time.sleep(POLL_SECONDS)
            for line in it.pages(it.agents_api.ListAgentLogs, request, "lines"):
                _print_line(line)
                request.after_index = line.index


def _print_line(line: Any) -> None:
    if wants_json():
        print(json.dumps(show.to_json(line)), flush=True)
        return
    if line.dropped_before:
        print(f"[{line.dropped_before} lines were left out]")
    level = show.state(line, "level").removeprefix("LEVEL_")
    told = json.loads(line.fields) if line.fields else {}
    fields = " ".join(f"{name}={value}" for name, value in told.items())
    at = show.moment(line.client_time) or show.moment(line.receive_time)
    print(show.clean(f"{at}  {level.ljust(7)}  {line.message}  {fields}".rstrip()), flush=True)


def _name(agent: str) -> str:
    return agent if agent.startswith("agents/") else f"agents/{agent}"


def _get(it: Any, agent: str) -> Any:
    from animus.orchestrator.v1 import agent_pb2

    return it.call(it.agents_api.GetAgent, agent_pb2.GetAgentRequest(name=_name(agent)))


def _attempts(it: Any, name: str, *, signed: bool, limit: int | None) -> list[Any]:
    from animus.orchestrator.v1 import agent_pb2

    request = agent_pb2.ListAgentAttemptsRequest(parent=name, signed_only=signed)
    return list(it.pages(it.agents_api.ListAgentAttempts, request, "attempts", limit))


def _attempt_table(found: list[Any]) -> None:
    rows = [
        (a.attempt, show.state(a), show.moment(a.lease_time), show.moment(a.end_time), a.provenance_digest)
        for a in found
    ]
    show.table(["attempt", "state", "leased", "ended", "signed"], rows)


def _projects(names: Any) -> str:
    return ", ".join(name.removeprefix("projects/") for name in names) or "every project"


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,7})([smhd])", text)
    if not found:
        raise Stop(exits.USAGE, f"a grace is written 30s, 10m, 2h or 1d, not {text!r}", "USAGE")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _summary(found: Any) -> None:
    offset = found.clock_offset.ToTimedelta().total_seconds()
    show.pairs(
        [
            ("agent", found.name),
            ("state", f"{show.state(found)} {found.state_reason}".strip()),
            ("because", found.state_message),
            ("pool", found.pool),
            ("projects", _projects(found.projects)),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(found.labels.items()))),
            ("hostname", found.claimed.hostname),
            ("kernel", found.claimed.kernel),
            ("version", found.claimed.agent_version),
            ("attempts", ", ".join(found.attempts)),
            ("last seen", show.moment(found.last_seen_time)),
            ("clock", f"{offset:+.0f} s" if abs(offset) >= 1 else ""),
            ("drain until", show.moment(found.drain_deadline_time)),
            ("drained", show.moment(found.drained_time)),
            ("revoked", show.moment(found.revoke_time)),
            ("certificate", show.moment(found.certificate_expire_time)),
            ("attestation", f"{found.attestation_key_id[:16]} until {show.moment(found.attestation_expire_time)}"),
        ]
    )
