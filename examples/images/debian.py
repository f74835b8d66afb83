"""A layer out of Debian packages, fetched from the mirrors that this machine's apt is configured with.

mmdebstrap resolves and verifies the packages; the layer is made from the .deb files themselves, so it is a function of
files whose digests are recorded. Maintainer scripts do not run, so `root_layer` supplies what they would have made.
"""

import hashlib
import io
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from examples.images.oci_layout import EPOCH, Layer, Package

SUITE = "bookworm"
"""The release whose Python is the 3.11 that the wheels are chosen for."""

# Copyright notices stay with what they cover; the rest is of no use to a step.
_DROPPED = re.compile(
    r"usr/share/(?:doc/(?!.*/copyright$)|man/|locale/|info/|lintian/|bash-completion/|perl5/)"
    r"|etc/(?:cron|logrotate|apt|dpkg)|usr/lib/systemd/|var/(?:lib|cache)/"
)
_MERGED = re.compile(r"^(bin|sbin|lib|lib32|lib64|libx32)(?=/|$)")
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)\s")


class MissingTool(RuntimeError):
    """A program of the machine is missing or failed; the message is one line for the user."""


def add_packages(layer: Layer, names: list[str]) -> list[Package]:
    """Adds the files of `names` and of all they depend on. Raises MissingTool."""
    with tempfile.TemporaryDirectory(prefix="animus-debs-") as folder:
        found = [_add_deb(layer, path) for path in _fetch(names, Path(folder))]
    return sorted(found)


def _fetch(names: list[str], folder: Path) -> list[Path]:
    debs = folder / "debs"
    debs.mkdir()
    # apt drops its rights for downloads; the hook runs as who calls.
    folder.chmod(0o755)
    command = [
        "mmdebstrap",
        "--variant=extract",
        "--format=null",
        f"--include={','.join(names)}",
        *(f"--aptopt={option}" for option in _apt_options()),
        f'--extract-hook=cp "$1"/var/cache/apt/archives/*.deb {shlex.quote(str(debs))}/',
        SUITE,
        "-",
        *map(str, _mirrors(folder)),
    ]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"}
    try:
        result = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise MissingTool("missing: mmdebstrap (apt-get install mmdebstrap)") from None
    if result.returncode != 0:
        raise MissingTool("mmdebstrap failed: " + " | ".join(result.stderr.strip().splitlines()[-5:]))
    return sorted(debs.glob("*.deb"))


def _mirrors(folder: Path) -> list[Path]:
    """The machine's own sources, as far as they are for SUITE. None: mmdebstrap's default."""
    wanted = {SUITE, f"{SUITE}-updates", f"{SUITE}-security", f"{SUITE}/updates"}
    lines, stanzas = [], []
    apt = Path("/etc/apt")
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        if path.is_file():
            for line in path.read_text().splitlines():
                matched = _ONE_LINE.match(line)
                if matched and matched[1] in wanted:
                    lines.append(line)
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            suites = set(fields.get("Suites", "").split())
            if suites and suites <= wanted and fields.get("Enabled", "yes") != "no":
                stanzas.append(stanza.strip())
    written = []
    for name, parts, between in (("own.list", lines, "\n"), ("own.sources", stanzas, "\n\n")):
        if parts:
            (folder / name).write_text(between.join(parts) + "\n")
            written.append(folder / name)
    return written


def _apt_options() -> list[str]:
    """How this machine reaches its mirrors: proxies, certificates, retries."""
    try:
        dump = subprocess.run(["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    kept = r'^(Acquire::(?:http|https)::\S+|Acquire::Retries|Acquire::ForceIPv[46]) "([^"]+)";$'
    return [f'{key} "{value}"' for key, value in re.findall(kept, dump, re.MULTILINE)]


def _add_deb(layer: Layer, path: Path) -> Package:
    fields = dict(
        line.split(": ", 1)
        for line in subprocess.run(
            ["dpkg-deb", "-f", path, "Package", "Version"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    )
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        for member in archive:
            _add_member(layer, archive, member)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Package(kind="deb", name=fields["Package"], version=fields["Version"], digest=f"sha256:{digest}")


def _add_member(layer: Layer, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = str(PurePosixPath(member.name))
    path = _MERGED.sub(r"usr/\1", path)
    if path == "." or member.isdir() or _DROPPED.match(path):
        return
    if member.issym():
        target = member.linkname
        # Links out of the folders that moved below /usr are written from their old place.
        if not target.startswith("/") and _MERGED.match(str(PurePosixPath(member.name))):
            old = PurePosixPath(member.name).parent / target
            parts: list[str] = []
            for part in old.parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            target = "/" + _MERGED.sub(r"usr/\1", "/".join(parts)) if ".." in old.parts else target
        layer.link(path, target)
    elif member.isreg() or member.islnk():
        stream = archive.extractfile(member)
        assert stream is not None
        layer.file(path, stream.read(), executable=bool(member.mode & 0o100))
