"""animus code"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import Labels, Limit, Project, Subject, answer, assignments, client, command, full, group, progress

app = group("Code snapshots: commits whose Git ids the server has recomputed.")


@command(app)
def push(
    repository: Annotated[Path, typer.Argument(help="A Git repository.")] = Path("."),
    project: Project = "",
    commit: Annotated[str, typer.Option(help="Any name of a commit.")] = "HEAD",
    description: Annotated[str, typer.Option()] = "",
    label: Labels = [],
    as_: Subject = "",
) -> None:
    """Upload the tree of one commit, read from Git's objects: what is not committed is not sent."""
    with client(as_) as it, progress("uploading") as bar:
        done = it.code.push(
            full(project),
            repository,
            commit,
            description=description,
            labels=assignments(label, "a label"),
            progress=bar,
        )
    found, upload = done.snapshot, done.upload
    rows = [
        ("snapshot", found.name),
        ("commit", found.commit_id),
        ("tree", found.tree_id),
        ("manifest", found.manifest_digest),
        ("files", found.file_count),
        ("sent", f"{upload.sent} blobs, {show.size(upload.sent_bytes)}; {upload.skipped} were there"),
    ]
    answer(found, lambda: show.pairs(rows))


@command(app, "list")
def list_(project: Project = "", limit: Limit = 50, as_: Subject = "") -> None:
    """Snapshots of a project, newest first."""
    from animus.catalog.v1 import code_pb2

    with client(as_) as it:
        request = code_pb2.ListCodeSnapshotsRequest(parent=full(project))
        found = list(it.pages(it.code_api.ListCodeSnapshots, request, "code_snapshots", limit))
    rows = [(c.name, c.commit_id[:12], c.file_count, c.repository_url, show.moment(c.create_time)) for c in found]
    columns = ["snapshot", "commit", ">files", "repository", "created"]
    answer({"codeSnapshots": found}, lambda: show.table(columns, rows))
