"""animus pipeline"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import Limit, Project, Stop, Subject, answer, client, command, full, group

app = group("Pipeline documents and their immutable versions.")
File = Annotated[Path, typer.Argument(help="A pipeline document, JSON or YAML.")]


def _media_type(path: Path) -> str:
    return "application/json" if path.suffix == ".json" else "application/yaml"


@command(app)
def apply(
    file: File,
    project: Project = "",
    pipeline: Annotated[str, typer.Option("--pipeline", help="Its id; the file's name if absent.")] = "",
    as_: Subject = "",
) -> None:
    """Store a document as the next version. The same document again answers the version it already is."""
    from animus.orchestrator.v1 import pipeline_pb2
    from animus_client.errors import AlreadyExists, NotFound

    parent, id = full(project), pipeline or file.stem
    version = pipeline_pb2.CreatePipelineVersionRequest(
        parent=f"{parent}/pipelines/{id}", document=file.read_bytes(), media_type=_media_type(file)
    )
    with client(as_) as it:
        try:
            found = it.call(it.pipelines_api.CreatePipelineVersion, version)
        except NotFound:
            # Only now, since a document that is refused shall leave no empty pipeline.
            with contextlib.suppress(AlreadyExists):
                request = pipeline_pb2.CreatePipelineRequest(parent=parent, pipeline_id=id)
                it.call(it.pipelines_api.CreatePipeline, request)
            found = it.call(it.pipelines_api.CreatePipelineVersion, version)
    answer(found, lambda: show.pairs([("version", found.name), ("digest", found.pipeline_digest)]))


@command(app)
def validate(file: File, project: Project = "", as_: Subject = "") -> None:
    """Tell every problem of a document, with line and column."""
    from animus.orchestrator.v1 import pipeline_pb2

    with client(as_) as it:
        request = pipeline_pb2.ValidatePipelineRequest(
            parent=full(project), document=file.read_bytes(), media_type=_media_type(file)
        )
        found = it.call(it.pipelines_api.ValidatePipeline, request)

    def human() -> None:
        problems(file.name, found.problems)
        if not found.problems:
            print(f"{file}: valid, {found.pipeline_digest}")

    answer(found, human)
    if found.problems:
        raise Stop(exits.ERROR, "")


def problems(name: str, found: Any) -> None:
    """As compilers write them."""
    for problem in found:
        place = f"{name}:{problem.line}:{problem.column}: " if problem.line else ""
        path = f"{problem.path}: " if problem.path else ""
        print(f"{place}{show.clean(path + problem.message)} [{problem.reason}]")


@command(app, "show")
def show_(
    pipeline: Annotated[str, typer.Argument(help="PIPELINE or PIPELINE@VERSION.")],
    project: Project = "",
    as_: Subject = "",
) -> None:
    """One version, as it was written."""
    from animus.orchestrator.v1 import pipeline_pb2

    with client(as_) as it:
        request = pipeline_pb2.GetPipelineVersionRequest(name=version_of(it, full(project), pipeline))
        found = it.call(it.pipelines_api.GetPipelineVersion, request)

    def human() -> None:
        show.pairs(
            [
                ("version", found.name),
                ("digest", found.pipeline_digest),
                ("creator", found.creator),
                ("created", show.moment(found.create_time)),
            ]
        )
        print()
        print("\n".join(show.clean(line) for line in found.document.decode("utf-8", "replace").splitlines()))

    answer(found, human)


@command(app, "list")
def list_(project: Project = "", limit: Limit = 100, as_: Subject = "") -> None:
    """Pipelines of a project."""
    from animus.orchestrator.v1 import pipeline_pb2

    with client(as_) as it:
        request = pipeline_pb2.ListPipelinesRequest(parent=full(project))
        found = list(it.pages(it.pipelines_api.ListPipelines, request, "pipelines", limit))
    rows = [(p.name, p.latest_version.rpartition("/")[2], p.creator, show.moment(p.create_time)) for p in found]
    answer({"pipelines": found}, lambda: show.table(["pipeline", "latest", "creator", "created"], rows))


def version_of(it: Any, project: str, text: str) -> str:
    """`digits`, `digits@v2` or a full name, as the full name of a version."""
    name, _, version = text.partition("@")
    whole = full(project, "pipelines", name)
    if "/versions/" in whole:
        return whole
    return f"{whole}/versions/{version}" if version else it.runs.latest_pipeline(whole)
