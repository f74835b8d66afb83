"""animus image"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from animus_cli import show
from animus_cli.base import Limit, Project, Subject, answer, client, command, full, group, progress

app = group("Images, as environment locks: a digest with the packages found in it.")


@command(app, "import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help="An OCI image layout, a tar archive of one, or host/repository@sha256:… of a registry."),
    ],
    project: Project = "",
    environment: Annotated[
        str, typer.Option("--environment", "-e", help="Its id; the name of the folder, file or repository if absent.")
    ] = "",
    platform: Annotated[str, typer.Option(help="os/architecture, where there are several.")] = "",
    registries: Annotated[
        Path | None,
        typer.Option(envvar="ANIMUS_REGISTRIES", help="TOML file with registries' authorities and credentials."),
    ] = None,
    temporary: Annotated[
        Path | None, typer.Option(help="A folder with room for an image that is not a layout yet.")
    ] = None,
    as_: Subject = "",
) -> None:
    """Upload an image and lock it. An image without a lock in the project does not run."""
    name = full(project, "environments", environment or _name(source))
    with client(as_) as it, progress("uploading") as bar:
        done = it.images.import_image(name, source, platform or None, bar, registries, temporary)
    rows = [
        ("lock", done.lock.name),
        ("image", done.lock.image_digest),
        ("platform", done.lock.platform),
        ("packages", len(done.lock.packages) or len(done.image.packages)),
        ("size", show.size(done.image.size)),
        ("sent", f"{done.upload.sent} blobs, {show.size(done.upload.sent_bytes)}; {done.upload.skipped} were there"),
    ]
    answer(done.lock, lambda: show.pairs(rows))


@command(app, "list")
def list_(project: Project = "", limit: Limit = 50, as_: Subject = "") -> None:
    """Locks of a project."""
    from animus.catalog.v1 import environment_pb2

    with client(as_) as it:
        request = environment_pb2.ListEnvironmentLocksRequest(parent=full(project, "environments", "-"))
        found = list(it.pages(it.environments_api.ListEnvironmentLocks, request, "environment_locks", limit))
    rows = [(k.name, k.image_digest, k.platform, show.moment(k.create_time)) for k in found]
    answer({"environmentLocks": found}, lambda: show.table(["lock", "image", "platform", "created"], rows))


def _name(source: str) -> str:
    """What an environment is called where nobody says it."""
    before = source.partition("@")[0]
    path = Path(before)
    return path.stem if path.is_file() else (path.resolve().name if path.exists() else path.name)
