"""The smallest image that runs a shell: one static busybox, copied from this machine. For smoke runs, tests, benches."""

import hashlib
import subprocess
from pathlib import Path

from examples.images.debian import MissingTool
from examples.images.oci_layout import PACKAGES_PATH, LayoutWriter, Package, packages_document, root_layer

_CANDIDATES = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_PT_INTERP = 3


def build(layout: Path) -> str:
    """Writes the layout and answers the digest of its platform manifest. Raises MissingTool."""
    binary = find()
    content = binary.read_bytes()
    applets = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    banner = subprocess.run([binary], capture_output=True, text=True).stdout.split()
    layer = root_layer()
    layer.file("usr/bin/busybox", content, executable=True)
    for applet in applets:
        if applet != "busybox":
            layer.link(f"usr/bin/{applet}", "busybox")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    package = Package(kind="binary", name="busybox", version=banner[1].removeprefix("v"), digest=digest)
    layer.file(PACKAGES_PATH, packages_document([package]))
    writer = LayoutWriter(layout)
    writer.add(layer)
    return writer.finish("animus.local/busybox", {"PATH": "/usr/bin"})


def find() -> Path:
    """A busybox that needs no shared library. Raises MissingTool."""
    for path in _CANDIDATES:
        if path.is_file() and _is_static(path.read_bytes()):
            return path
    raise MissingTool("missing: a static busybox (apt-get install busybox-static)")


def _is_static(elf: bytes) -> bool:
    """Whether a 64-bit ELF file asks for no interpreter."""
    if elf[:5] != b"\x7fELF\x02":
        return False
    offset, size, count = (int.from_bytes(elf[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = {int.from_bytes(elf[offset + i * size : offset + i * size + 4], "little") for i in range(count)}
    return _PT_INTERP not in kinds
