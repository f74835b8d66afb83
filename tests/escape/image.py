"""An image with Python, out of the interpreter that runs the tests: no registry, no network, a second to make."""

import io
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

# What the probe imports, and what those import; the rest of the library would be most of the bytes.
PACKAGES = ("collections", "ctypes", "encodings", "importlib", "json", "re")
PROBE = Path(__file__).with_name("probe.py")
PYTHON = "/bin/python"
SETUID = "/bin/was-setuid"


def libraries(*programs: Path) -> set[Path]:
    """Shared objects that the loader would load, by ldd(1)."""
    found: set[Path] = set()
    for program in programs:
        told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        found |= {Path(word) for word in told.split() if word.startswith("/")}
    return found


def build() -> bytes:
    """One layer: the interpreter where it expects itself, busybox, the probe, and a program that asks to be setuid."""
    executable = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    extensions = set((library / "lib-dynload").glob("*.so"))
    files = {executable} | extensions | set(library.glob("*.py")) | set((library / "__pycache__").glob("*.pyc"))
    files |= libraries(executable, *(one for one in extensions if one.name.startswith("_ctypes")))
    for package in PACKAGES:
        files |= {one for one in (library / package).rglob("*") if one.suffix in (".py", ".pyc")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(name: str, source: Path, mode: int = 0o755) -> None:
            info = tarfile.TarInfo(name.lstrip("/"))
            # Compiled modules are taken for fresh by the time of their source.
            info.size, info.mode, info.mtime = source.stat().st_size, mode, int(source.stat().st_mtime)
            with source.open("rb") as file:
                tar.addfile(info, file)

        for source in sorted(files):
            add(str(source), source)
        busybox = Path("/bin/busybox")
        add("bin/busybox", busybox)
        add(SETUID, executable, 0o6755)
        add("probe.py", PROBE)
        for name, target in ((PYTHON, str(executable)), ("bin/sh", "busybox")):
            link = tarfile.TarInfo(name.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return buffer.getvalue()
