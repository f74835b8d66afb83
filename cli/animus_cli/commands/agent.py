"""animus agent"""

from __future__ import annotations

from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import Labels, Limit, Subject, answer, assignments, client, command, group

app = group("Agents, which run steps on their nodes.")


@command(app)
def join(
    agent: Annotated[str, typer.Argument(help="The name it will have; made by the server if absent.")] = "",
    pool: Annotated[str, typer.Option(help="Its pool.")] = "",
    project: Annotated[
        list[str], typer.Option("--project", "-p", help="Only work of these projects; may be repeated.")
    ] = [],
    label: Labels = [],
    minutes: Annotated[int, typer.Option(min=1, max=60, help="How long the token holds.")] = 15,
    as_: Subject = "",
) -> None:
    """Make a token with which one node may join, once. It is shown now and never again."""
    from google.protobuf import duration_pb2

    from animus.orchestrator.v1 import agent_pb2

    request = agent_pb2.CreateJoinTokenRequest(
        agent_id=agent,
        pool=pool,
        projects=[p if p.startswith("projects/") else f"projects/{p}" for p in project],
        labels=assignments(label, "a label"),
        ttl=duration_pb2.Duration(seconds=minutes * 60),
    )
    with client(as_) as it:
        found = it.call(it.agents_api.CreateJoinToken, request)

    def human() -> None:
        show.pairs([("agent", found.agent), ("token", found.token), ("until", show.moment(found.expire_time))])
        print("\non the node, with the token in a file of mode 0600:")
        print("  ANIMUS_JOIN_TOKEN_FILE=FILE ANIMUS_ENROLLMENT_TARGET=HOST:PORT animus-agent enroll")

    answer(found, human)


@command(app, "list")
def list_(limit: Limit = 100, as_: Subject = "") -> None:
    """Agents and what they hold."""
    from animus.orchestrator.v1 import agent_pb2

    with client(as_) as it:
        found = list(it.pages(it.agents_api.ListAgents, agent_pb2.ListAgentsRequest(), "agents", limit))
    rows = [
        (a.name, show.state(a), a.state_reason, a.pool, a.claimed.platform, f"{a.claimed.cpu_millis / 1000:g}", show.size(a.claimed.memory_bytes), len(a.attempts), show.moment(a.last_seen_time))
        for a in found
    ]  # fmt: skip
    columns = ["agent", "state", "reason", "pool", "platform", ">cpu", ">memory", ">attempts", "last seen"]
    answer({"agents": found}, lambda: show.table(columns, rows))


@command(app, "show")
def show_(agent: Annotated[str, typer.Argument(help="The agent's id.")], as_: Subject = "") -> None:
    """One agent with what its canaries found."""
    from animus.orchestrator.v1 import agent_pb2

    with client(as_) as it:
        name = agent if agent.startswith("agents/") else f"agents/{agent}"
        found = it.call(it.agents_api.GetAgent, agent_pb2.GetAgentRequest(name=name))

    def human() -> None:
        show.pairs(
            [
                ("agent", found.name),
                ("state", f"{show.state(found)} {found.state_reason}".strip()),
                ("pool", found.pool),
                ("projects", ", ".join(found.projects) or "every project"),
                ("hostname", found.claimed.hostname),
                ("kernel", found.claimed.kernel),
                ("version", found.claimed.agent_version),
                ("attempts", ", ".join(found.attempts)),
                ("certificate", show.moment(found.certificate_expire_time)),
            ]
        )
        print()
        rows = [(c.name, "yes" if c.available else "no", c.message) for c in found.claimed.capabilities]
        show.table(["isolation", "found", "why not"], rows)

    answer(found, human)
