"""animus pool"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import Limit, Stop, Subject, answer, client, command, group

app = group("Pools: groups of agents with a queue of their own.")

Id = Annotated[str, typer.Argument(help="The pool's id.")]
Description = Annotated[str, typer.Option(help="For people.", show_default=False)]
Projects = Annotated[
    list[str], typer.Option("--project", "-p", help="Only runs of these projects; may be repeated.", show_default=False)
]


@command(app, "list")
def list_(limit: Limit = 100, as_: Subject = "") -> None:
    """Pools, and how many of their agents are online."""
    from animus.orchestrator.v1 import pool_pb2

    with client(as_) as it:
        found = list(it.pages(it.pools_api.ListPools, pool_pb2.ListPoolsRequest(), "pools", limit))
    rows = [(p.name, "paused" if p.paused else "leasing", p.online_agents, _projects(p), p.description) for p in found]
    answer({"pools": found}, lambda: show.table(["pool", "state", ">online", "projects", "description"], rows))


@command(app)
def create(pool: Id, description: Description = "", project: Projects = [], as_: Subject = "") -> None:
    """Make a pool. Agents join it with a token made for it."""
    from animus.orchestrator.v1 import pool_pb2

    request = pool_pb2.CreatePoolRequest(
        pool_id=pool, pool=pool_pb2.Pool(description=description, projects=[_project(p) for p in project])
    )
    with client(as_) as it:
        found = it.call(it.pools_api.CreatePool, request)
    answer(found, lambda: _print(found))


@command(app)
def update(
    pool: Id,
    description: Description = "",
    project: Projects = [],
    every_project: Annotated[bool, typer.Option("--every-project", help="For all projects again.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Lease nothing new; what runs goes on.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Lease again.")] = False,
    as_: Subject = "",
) -> None:
    """Change a pool. What is not named stays."""
    from google.protobuf import field_mask_pb2

    from animus.orchestrator.v1 import pool_pb2

    if (pause and resume) or (project and every_project):
        raise Stop(exits.USAGE, "these two contradict each other", "USAGE")
    paths = [
        name
        for name, named in (
            ("description", description), ("projects", project or every_project), ("paused", pause or resume)
        )
        if named
    ]  # fmt: skip
    if not paths:
        raise Stop(exits.USAGE, "nothing to change", "USAGE")
    name = pool if pool.startswith("pools/") else f"pools/{pool}"
    request = pool_pb2.UpdatePoolRequest(
        pool=pool_pb2.Pool(name=name, description=description, projects=[_project(p) for p in project], paused=pause),
        update_mask=field_mask_pb2.FieldMask(paths=paths),
    )
    with client(as_) as it:
        found = it.call(it.pools_api.UpdatePool, request)
    answer(found, lambda: _print(found))


def _project(name: str) -> str:
    return name if name.startswith("projects/") else f"projects/{name}"


def _projects(pool: Any) -> str:
    return ", ".join(p.removeprefix("projects/") for p in pool.projects) or "every project"


def _print(pool: Any) -> None:
    show.pairs(
        [
            ("pool", pool.name),
            ("state", "paused" if pool.paused else "leasing"),
            ("projects", _projects(pool)),
            ("description", pool.description),
            ("online", pool.online_agents),
        ]
    )
