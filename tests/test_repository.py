"""Rules of the tree itself: what may stand in a committed file, how long files are, and that `make` explains itself."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Written by a tool, vendored, or data: nobody reads them line by line.
GENERATED = ("gen/python/animus/", "gen/python/buf/", "proto/third_party/")
MAX_LINES = 400
LONG_FILE_REASON = re.compile(r"over 400 lines because", re.IGNORECASE)

# Pieces joined here so that this file does not contain what it looks for.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("proxy", "golang", "org"),
        ("registry-1", "docker", "io"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
    )
)
MACHINE_PATHS = re.compile(r"/(?:work|home|Users)/[a-z]|(?<![\w.])/root/")


def _tracked() -> list[str]:
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a Git work tree: {error}")
    return sorted(name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file())


def _texts() -> list[tuple[str, str]]:
    found = []
    for name in _tracked():
        if name.startswith(GENERATED):
            continue
        try:
            found.append((name, (ROOT / name).read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_no_file_names_a_registry_host() -> None:
    """Packages come from the machine's own pip, apt and npm configuration, which may point at a mirror."""
    hits = [
        f"{name}:{number}: {host}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        for host in REGISTRY_HOSTS
        if re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", line)
    ]
    assert hits == []


def test_no_file_names_a_path_of_one_machine() -> None:
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line) and name != "tests/test_repository.py"
    ]
    assert hits == []


def test_long_files_say_why() -> None:
    long = [
        f"{name}: {text.count(chr(10))} lines"
        for name, text in _texts()
        if name.endswith((".py", ".proto", ".sh", ".md"))
        and text.count("\n") > MAX_LINES
        and not LONG_FILE_REASON.search("\n".join(text.splitlines()[:20]))
    ]
    assert long == []


def test_no_private_key_is_committed() -> None:
    marker = "-----BEGIN {}PRIVATE KEY-----"
    kinds = [marker.format(kind) for kind in ("", "EC ", "RSA ", "ENCRYPTED ", "OPENSSH ")]
    assert [name for name, text in _texts() if any(kind + "\n" in text for kind in kinds)] == []


def test_generated_stubs_are_what_the_protos_generate() -> None:
    result = subprocess.run([ROOT / "scripts/gen-check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    listed = set(re.findall(r"^  ([a-z][a-z-]*)\s+\S", shown, re.MULTILINE))
    assert targets == phony == listed


def test_every_shell_script_parses() -> None:
    failures = []
    for name, text in _texts():
        first = text.partition("\n")[0]
        if not re.match(r"#!.*\b(?:ba)?sh\b", first):
            continue
        shell = "bash" if "bash" in first else "sh"
        result = subprocess.run([shell, "-n", ROOT / name], capture_output=True, text=True)
        if result.returncode != 0:
            failures.append(f"{name}: {result.stderr}")
        if not (ROOT / name).stat().st_mode & 0o100:
            failures.append(f"{name}: not executable")
    assert failures == []


def test_every_distribution_is_pinned() -> None:
    """A requirement without a line in constraints.txt would float with the day."""
    import tomllib

    def key(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement).group()).lower()

    pinned = {key(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"}
    wanted: dict[str, str] = {}
    for name in _tracked():
        if not name.endswith("pyproject.toml"):
            continue
        document = tomllib.loads((ROOT / name).read_text())
        project = document.get("project", {})
        groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
        groups += document.get("dependency-groups", {}).values()
        wanted |= {key(requirement): name for group in groups for requirement in group}
    loose = {package: name for package, name in wanted.items() if package not in pinned}
    assert {package: name for package, name in loose.items() if not package.startswith("animus-")} == {}
