"""The image that trivial steps run in."""

from __future__ import annotations

from animus_cli.stack.layout import Layout
from animus_client.client import Client
from examples.images import busybox


def import_busybox(who: Client, project: str, layout: Layout) -> str:
    """The digest of an image of one program, locked in the project."""
    image = layout.root / "image"
    digest = busybox.build(image)
    who.images.import_layout(f"{project}/environments/busybox", image)
    return digest
