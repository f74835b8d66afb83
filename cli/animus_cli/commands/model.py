"""animus model"""

from __future__ import annotations

from typing import Annotated

import typer

from animus_cli import exits, show
from animus_cli.base import Labels, Limit, Project, Stop, Subject, answer, assignments, client, command, full, group

app = group("Registered models and their versions.")


@command(app)
def register(
    model: Annotated[str, typer.Argument(help="The model's id; made if it does not exist.")],
    project: Project = "",
    artifact: Annotated[str, typer.Option(help="The artifact to register; or --run, --step and --output-name.")] = "",
    run: Annotated[str, typer.Option(help="The run that made it.")] = "",
    step: Annotated[str, typer.Option(help="The step that made it.")] = "",
    output_name: Annotated[str, typer.Option("--output-name", help="Its name among the step's outputs.")] = "model",
    description: Annotated[str, typer.Option()] = "",
    label: Labels = [],
    as_: Subject = "",
) -> None:
    """Register an artifact as the model's next version. The same artifact again answers the version it already is."""
    from animus.catalog.v1 import model_pb2
    from animus.orchestrator.v1 import run_pb2
    from animus_client.errors import AlreadyExists, FailedPrecondition

    parent = full(project)
    with client(as_) as it:
        if artifact:
            name = full(project, "artifacts", artifact)
        elif run and step:
            request = run_pb2.GetStepRequest(name=f"{full(project, 'runs', run)}/steps/{step}")
            found = it.call(it.runs_api.GetStep, request)
            names = {o.name: o.artifact for o in found.outputs}
            if output_name not in names:
                known = ", ".join(sorted(names)) or "none yet"
                raise Stop(exits.NOT_FOUND, f"{found.name} has no output {output_name!r}: {known}", "OUTPUT_NOT_FOUND")
            name = names[output_name]
        else:
            raise Stop(exits.USAGE, "which artifact? give --artifact, or --run and --step", "USAGE")
        try:
            it.call(it.models_api.CreateModel, model_pb2.CreateModelRequest(parent=parent, model_id=model))
        except AlreadyExists:
            pass
        create = model_pb2.CreateModelVersionRequest(
            parent=f"{parent}/models/{model}",
            model_version=model_pb2.ModelVersion(
                artifact=name, description=description, labels=assignments(label, "a label")
            ),
        )
        # The catalog learns of a commit from the log, a moment after the run has ended.
        for attempt in range(20):
            try:
                version = it.call(it.models_api.CreateModelVersion, create)
                break
            except FailedPrecondition as error:
                if error.reason != "ARTIFACT_NOT_COMMITTED" or attempt == 19:
                    raise
                create.request_id = ""
                it._sleep(0.25)
    answer(version, lambda: _one(version))


def _one(version: object) -> None:
    show.pairs(
        [
            ("version", version.name),
            ("state", show.state(version)),
            ("artifact", version.artifact),
            ("manifest", version.manifest_digest),
            ("run", version.run),
            ("metrics", ", ".join(f"{m.name}={m.value:.6g}" for m in version.metrics)),
            ("creator", version.creator),
            ("created", show.moment(version.create_time)),
        ]
    )


@command(app, "list")
def list_(
    model: Annotated[str, typer.Argument(help="List the versions of this one.")] = "",
    project: Project = "",
    limit: Limit = 100,
    as_: Subject = "",
) -> None:
    """Models of a project, or versions of a model."""
    from animus.catalog.v1 import model_pb2

    with client(as_) as it:
        if model:
            request = model_pb2.ListModelVersionsRequest(parent=full(project, "models", model))
            versions = list(it.pages(it.models_api.ListModelVersions, request, "model_versions", limit))
            rows = [(v.name, show.state(v), v.artifact, show.moment(v.create_time)) for v in versions]
            answer({"modelVersions": versions}, lambda: show.table(["version", "state", "artifact", "created"], rows))
            return
        found = list(
            it.pages(it.models_api.ListModels, model_pb2.ListModelsRequest(parent=full(project)), "models", limit)
        )
    table = [(m.name, m.latest_version.rpartition("/")[2], m.creator, show.moment(m.create_time)) for m in found]
    answer({"models": found}, lambda: show.table(["model", "latest", "creator", "created"], table))


@command(app, "show")
def show_(
    model: Annotated[str, typer.Argument(help="MODEL@VERSION, or MODEL for the newest.")],
    project: Project = "",
    as_: Subject = "",
) -> None:
    """One version."""
    from animus.catalog.v1 import model_pb2

    name, _, version = model.partition("@")
    whole = full(project, "models", name)
    with client(as_) as it:
        if version:
            whole = f"{whole}/versions/{version}"
        elif "/versions/" not in whole:
            found = it.call(it.models_api.GetModel, model_pb2.GetModelRequest(name=whole))
            whole = found.latest_version or f"{whole}/versions/v1"
        shown = it.call(it.models_api.GetModelVersion, model_pb2.GetModelVersionRequest(name=whole))
    answer(shown, lambda: _one(shown))
