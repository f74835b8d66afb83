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
    layout: Annotated[Path, typer.Argument(help="An OCI image layout.")],
    project: Project = "",
    environment: Annotated[str, typer.Option("--environment", "-e", help="Its id; the folder's name if absent.")] = "",
    platform: Annotated[str, typer.Option(help="os/architecture, where the layout holds several.")] = "",
    as_: Subject = "",
) -> None:
    """Upload an image and lock it. An image without a lock in the project does not run."""
    name = full(project, "environments", environment or layout.resolve().name)
    with client(as_) as it, progress("uploading") as bar:
        done = it.images.import_layout(name, layout, platform or None, bar)
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
