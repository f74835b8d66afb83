"""animus dataset"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import (
    Labels,
    Limit,
    Project,
    Subject,
    answer,
    assignments,
    client,
    command,
    full,
    group,
    progress,
    scope,
)

app = group("Datasets and their immutable versions.")
Name = Annotated[str, typer.Argument(help="DATASET, DATASET@VERSION or a full name.")]


@command(app)
def push(
    folder: Annotated[Path, typer.Argument(help="The folder whose files become a version.")],
    project: Project = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Its id; the folder's name if absent.")] = "",
    description: Annotated[str, typer.Option()] = "",
    source: Annotated[str, typer.Option(help="Where the data came from. A claim.")] = "",
    parent: Annotated[list[str], typer.Option(help="What it was made from; may be repeated.")] = [],
    label: Labels = [],
    as_: Subject = "",
) -> None:
    """Upload a folder as the next version. What the project has already is not sent again."""
    name = full(project, "datasets", dataset or folder.resolve().name)
    with client(as_) as it, progress("uploading") as bar:
        done = it.datasets.push(
            name, folder, description=description, source=source, parents=parent,
            labels=assignments(label, "a label"), progress=bar,
        )  # fmt: skip
    version, upload = done.version, done.upload
    rows = [
        ("version", version.name),
        ("manifest", version.manifest_digest),
        ("files", version.file_count),
        ("size", show.size(version.size_bytes)),
        ("sent", f"{upload.sent} blobs, {show.size(upload.sent_bytes)}; {upload.skipped} were there"),
    ]
    answer(version, lambda: show.pairs(rows))


@command(app, "list")
def list_(
    dataset: Annotated[str, typer.Argument(help="List the versions of this one.")] = "",
    project: Project = "",
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """Datasets of a project, or versions of a dataset."""
    from animus.catalog.v1 import dataset_pb2

    with client(as_) as it:
        if dataset:
            request = dataset_pb2.ListDatasetVersionsRequest(parent=full(project, "datasets", dataset))
            versions = list(it.pages(it.datasets_api.ListDatasetVersions, request, "dataset_versions", limit))
            rows = [
                (v.name, v.file_count, show.size(v.size_bytes), show.short(v.manifest_digest), v.creator, show.moment(v.create_time))
                for v in versions
            ]  # fmt: skip
            columns = ["version", ">files", ">size", "manifest", "creator", "created"]
            answer({"datasetVersions": versions}, lambda: show.table(columns, rows))
            return
        found = list(
            it.pages(
                it.datasets_api.ListDatasets, dataset_pb2.ListDatasetsRequest(parent=full(project)), "datasets", limit
            )
        )
    table = [(d.name, d.latest_version.rpartition("/")[2], d.creator, show.moment(d.create_time)) for d in found]
    answer({"datasets": found}, lambda: show.table(["dataset", "latest", "creator", "created"], table))


@command(app, "show")
def show_(name: Name, project: Project = "", limit: Limit = 50, as_: Subject = "") -> None:
    """One version with its files."""
    from animus.catalog.v1 import dataset_pb2

    with client(as_) as it:
        version = it.runs.dataset_version(scope(project, name), name)
        found = it.call(it.datasets_api.GetDatasetVersion, dataset_pb2.GetDatasetVersionRequest(name=version))
        request = dataset_pb2.ListDatasetVersionEntriesRequest(parent=version)
        entries = list(it.pages(it.datasets_api.ListDatasetVersionEntries, request, "entries", limit))

    def human() -> None:
        show.pairs(
            [
                ("version", found.name),
                ("manifest", found.manifest_digest),
                ("files", found.file_count),
                ("size", show.size(found.size_bytes)),
                ("source", found.source),
                ("description", found.description),
                ("parents", ", ".join(found.parents)),
                ("creator", found.creator),
                ("created", show.moment(found.create_time)),
            ]
        )
        print()
        show.table(
            ["path", ">size", "digest"], [(e.path, show.size(e.size_bytes), show.short(e.digest)) for e in entries]
        )
        if found.file_count > len(entries):
            print(f"… {found.file_count - len(entries)} more (--limit)")

    answer({"datasetVersion": found, "entries": entries}, human)


@command(app)
def diff(
    base: Annotated[str, typer.Argument(help="The older one: DATASET@VERSION.")],
    name: Annotated[str, typer.Argument(help="The newer one: DATASET[@VERSION].")],
    project: Project = "",
    limit: Limit = 500,
    as_: Subject = "",
) -> None:
    """What changed between two versions, by path and digest."""
    from animus.catalog.v1 import dataset_pb2

    with client(as_) as it:
        parent = scope(project, name)
        request = dataset_pb2.DiffDatasetVersionsRequest(
            name=it.runs.dataset_version(parent, name), base=it.runs.dataset_version(parent, base)
        )
        found = list(it.pages(it.datasets_api.DiffDatasetVersions, request, "changes", limit))
    signs = {1: "+", 2: "-", 3: "~"}
    rows = [
        (signs.get(c.kind, "?"), c.path, show.size(c.before.size_bytes) if c.kind != 1 else "", show.size(c.after.size_bytes) if c.kind != 2 else "")
        for c in found
    ]  # fmt: skip
    answer({"changes": found}, lambda: show.table(["", "path", ">before", ">after"], rows))


@command(app)
def download(
    name: Name,
    target: Annotated[Path, typer.Argument(help="The folder to write into.")],
    project: Project = "",
    as_: Subject = "",
) -> None:
    """All files of a version, each checked against its digest."""
    from animus.catalog.v1 import dataset_pb2
    from animus_kit.documents import manifest
    from animus_kit.names import project_of

    with client(as_) as it:
        version = it.runs.dataset_version(scope(project, name), name)
        found = it.call(it.datasets_api.GetDatasetVersion, dataset_pb2.GetDatasetVersionRequest(name=version))
        owner = project_of(version)
        entries = manifest.loads(it.blobs.read_all(owner, found.manifest_digest), manifest.DATASET)
        for entry in entries:
            it.blobs.download(owner, entry.digest, target / entry.path)
    answer({"files": len(entries), "folder": str(target)}, lambda: print(f"{len(entries)} files in {target}"))
