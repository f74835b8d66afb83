#!/usr/bin/env python3
"""build_image.py FOLDER: the image that the digits pipeline runs in, as an OCI layout in FOLDER.

Debian's Python and its libraries below, pinned wheels above, nothing else. The same package files give the same digest;
Debian's versions are recorded in the image rather than pinned, since mirrors keep only the newest. Prints the digest.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# As a script this file's own folder is on the path, and the repository is not.
sys.path.insert(0, str(HERE.parent.parent))

from examples.images import busybox, cache, debian, oci_layout, wheels  # noqa: E402

DEBS = ["python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1", "busybox-static"]
REQUIREMENTS = HERE / "requirements.txt"
NO_IMAGE = "sha256:" + "0" * 64
"""Stands in the committed pipeline document, whose author cannot know the digest of an image that is built later."""


def fetch_wheels() -> list[Path]:
    return wheels.fetch(REQUIREMENTS, cache.folder() / "wheels")


def build(layout: Path) -> None:
    base = oci_layout.root_layer()
    packages = debian.add_packages(base, DEBS)
    base.link("usr/bin/sh", "busybox")
    modules = oci_layout.Layer()
    packages += wheels.add_wheels(modules, fetch_wheels())
    modules.file(oci_layout.PACKAGES_PATH, oci_layout.packages_document(packages))
    writer = oci_layout.LayoutWriter(layout)
    writer.add(base)
    writer.add(modules)
    writer.finish("animus.local/digits", {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin"})


def layout(*, rebuild: bool = False) -> Path:
    """The image's layout in the cache, built unless it is there."""
    sources = [Path(__file__), REQUIREMENTS, *Path(oci_layout.__file__).parent.glob("*.py")]
    return cache.built(f"digits-{cache.key(sources, debian.SUITE)}", build, rebuild=rebuild)


def with_image(document: str, digest: str) -> str:
    """The pipeline document with the digest of a built image where NO_IMAGE stands."""
    return document.replace(NO_IMAGE, digest)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the layout goes; an earlier layout there is replaced")
    parser.add_argument("--pipeline", type=Path, help="also write the pipeline document with this image in it")
    parser.add_argument("--smoke", action="store_true", help="a busybox image instead, for smoke.yaml")
    parser.add_argument("--rebuild", action="store_true", help="build again even if the cache has it")
    options = parser.parse_args(arguments)
    try:
        if options.smoke:
            binary = str(busybox.find())
            sources = [Path(binary), *Path(oci_layout.__file__).parent.glob("*.py")]
            found = cache.built(f"busybox-{cache.key(sources)}", busybox.build, rebuild=options.rebuild)
        else:
            found = layout(rebuild=options.rebuild)
        oci_layout.publish(found, options.folder)
    except (debian.MissingTool, wheels.WheelsUnavailable) as error:
        print(error, file=sys.stderr)
        return 3
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    digest = oci_layout.manifest_digest(options.folder)
    if options.pipeline:
        source = HERE / ("smoke.yaml" if options.smoke else "pipeline.yaml")
        options.pipeline.parent.mkdir(parents=True, exist_ok=True)
        options.pipeline.write_text(with_image(source.read_text(), digest))
    print(digest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
