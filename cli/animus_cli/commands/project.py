"""animus project"""

from __future__ import annotations

from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import Labels, Limit, Subject, answer, assignments, client, command, full, group

app = group("Projects, the boundary of everything.")
Id = Annotated[str, typer.Argument(help="The project's id.")]


@command(app)
def create(
    id: Id,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    description: Annotated[str, typer.Option()] = "",
    label: Labels = [],
    as_: Subject = "",
) -> None:
    """Make a project; you become its administrator."""
    from animus.catalog.v1 import project_pb2

    made = project_pb2.Project(display_name=name, description=description, labels=assignments(label, "a label"))
    with client(as_) as it:
        request = project_pb2.CreateProjectRequest(project_id=id, project=made)
        found = it.call(it.projects_api.CreateProject, request)
    answer(found, lambda: print(found.name))


@command(app, "list")
def list_(limit: Limit = 100, as_: Subject = "") -> None:
    """The projects that you may read."""
    from animus.catalog.v1 import project_pb2

    with client(as_) as it:
        found = list(it.pages(it.projects_api.ListProjects, project_pb2.ListProjectsRequest(), "projects", limit))
    rows = [(p.name, p.display_name, show.state(p), p.creator, show.moment(p.create_time)) for p in found]
    answer({"projects": found}, lambda: show.table(["name", "title", "state", "creator", "created"], rows))


@command(app, "show")
def show_(id: Id, as_: Subject = "") -> None:
    """One project."""
    from animus.catalog.v1 import project_pb2

    with client(as_) as it:
        found = it.call(it.projects_api.GetProject, project_pb2.GetProjectRequest(name=full(id)))
    rows = [
        ("name", found.name),
        ("title", found.display_name),
        ("description", found.description),
        ("state", show.state(found)),
        ("labels", ", ".join(f"{k}={v}" for k, v in sorted(found.labels.items()))),
        ("creator", found.creator),
        ("created", show.moment(found.create_time)),
    ]
    answer(found, lambda: show.pairs(rows))


@command(app)
def archive(id: Id, as_: Subject = "") -> None:
    """Make a project read-only, for good."""
    from animus.catalog.v1 import project_pb2

    with client(as_) as it:
        found = it.call(it.projects_api.ArchiveProject, project_pb2.ArchiveProjectRequest(name=full(id)))
    answer(found, lambda: print(f"{found.name} is archived"))
