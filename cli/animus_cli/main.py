"""The `animus` command. Commands stand in commands/, one file for each noun; heavy imports happen inside of them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from animus_cli.commands import (
    access,
    agent,
    artifact,
    audit,
    code,
    dataset,
    image,
    lineage,
    login,
    machine,
    model,
    pipeline,
    pki,
    pool,
    project,
    quota,
    run,
    stack,
)

app = typer.Typer(
    name="animus",
    help="Decides what may run, has it run in isolation, and proves afterwards what ran.",
    epilog="Exit status: 0 fine, 1 error, 2 usage, 3 the machine lacks something, 4 denied, 5 not found, "
    "6 the run failed, 7 not reachable.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

stack.add(app)
login.add(app)
machine.add(app)
app.add_typer(project.app, name="project")
app.add_typer(dataset.app, name="dataset")
app.add_typer(code.app, name="code")
app.add_typer(image.app, name="image")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(run.app, name="run")
app.add_typer(artifact.app, name="artifact")
app.add_typer(model.app, name="model")
app.add_typer(lineage.app, name="lineage")
app.add_typer(audit.app, name="audit")
app.add_typer(access.app, name="access")
app.add_typer(agent.app, name="agent")
app.add_typer(pool.app, name="pool")
app.add_typer(quota.app, name="quota")
app.add_typer(pki.app, name="pki")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"animus {version('animus-cli')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    # Read when gRPC is imported; its own lines about a handshake that failed would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


if __name__ == "__main__":
    main()
