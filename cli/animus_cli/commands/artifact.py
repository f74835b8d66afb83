"""animus artifact"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import Limit, Project, Subject, answer, client, command, full, group

app = group("Outputs of committed attempts.")


@command(app, "list")
def list_(
    project: Project = "",
    run: Annotated[str, typer.Option(help="Only outputs of this run.")] = "",
    type: Annotated[str, typer.Option(help="Only outputs of this declared type, for example model.")] = "",
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """Artifacts of a project, newest first."""
    from animus.catalog.v1 import artifact_pb2

    with client(as_) as it:
        request = artifact_pb2.ListArtifactsRequest(
            parent=full(project), run=full(project, "runs", run) if run else "", type=type
        )
        found = list(it.pages(it.artifacts_api.ListArtifacts, request, "artifacts", limit))
    rows = [(a.name, a.type, a.file_count, show.size(a.size_bytes), show.short(a.manifest_digest)) for a in found]
    answer({"artifacts": found}, lambda: show.table(["artifact", "type", ">files", ">size", "manifest"], rows))


@command(app)
def download(
    artifact: Annotated[str, typer.Argument(help="ARTIFACT, or a full name.")],
    target: Annotated[Path, typer.Argument(help="The folder to write into.")] = Path("."),
    project: Project = "",
    as_: Subject = "",
) -> None:
    """All files of an artifact, each checked against its digest."""
    from animus.catalog.v1 import artifact_pb2
    from animus_kit.documents import manifest
    from animus_kit.names import project_of

    name = full(project, "artifacts", artifact)
    owner = project_of(name)
    with client(as_) as it:
        found = it.call(it.artifacts_api.GetArtifact, artifact_pb2.GetArtifactRequest(name=name))
        entries = manifest.loads(it.blobs.read_all(owner, found.manifest_digest), manifest.ARTIFACT)
        for entry in entries:
            path = target / entry.path
            it.blobs.download(owner, entry.digest, path)
            path.chmod(entry.mode | 0o200)
    answer(
        {"files": [e.path for e in entries]},
        lambda: print("\n".join(show.clean(str(target / e.path)) for e in entries)),
    )
