"""Imports go downwards only, read from the source with ast.

`animus.*` imports nothing of ours; the kit imports `animus`; a service imports `animus` and the kit and never another
service; the agent stays clear of everything that only servers need. Inside a service `domain` does no I/O and knows
neither the wire nor SQL, and `store` does not know `service`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("catalog", "orchestrator", "policy", "lineage", "audit", "agent")

KIT = {"animus_kit"}
# Package -> the other packages of ours that it may import.
ALLOWED = {
    "animus_kit": set(),
    **{f"animus_{service}": KIT for service in SERVICES},
    "animus_gateway": KIT,
    "animus_client": KIT,
    # The local stack of the command starts processes; it never imports them.
    "animus_cli": KIT | {"animus_client"},
}
FOLDERS = {
    "animus_kit": ROOT / "kit/animus_kit",
    **{f"animus_{service}": ROOT / f"services/{service}/animus_{service}" for service in SERVICES},
    "animus_gateway": ROOT / "gateway/animus_gateway",
    "animus_client": ROOT / "clients/python/animus_client",
    "animus_cli": ROOT / "cli/animus_cli",
}
AGENT_FORBIDDEN = ("animus_kit.server", "animus_kit.db", "sqlalchemy", "obstore", "psycopg", "alembic")
IO = (
    "grpc",
    "sqlalchemy",
    "psycopg",
    "obstore",
    "alembic",
    "animus.",
    "google.protobuf",
    "animus_kit.server",
    "animus_kit.db",
)


def _imports(path: Path, package_root: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with its line; relative imports made absolute."""
    here = [package_root.name, *path.relative_to(package_root).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "node_modules" not in path.parts) if folder.is_dir() else []


def _is(module: str, prefix: str) -> bool:
    return module == prefix.rstrip(".") or module.startswith(prefix.rstrip(".") + ".")


def _where(path: Path, line: int, module: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_packages_import_downwards_only() -> None:
    wrong = []
    for package, folder in FOLDERS.items():
        for path in _files(folder):
            for line, module in _imports(path, folder):
                top = module.partition(".")[0]
                if top.startswith("animus_") and top != package and top not in ALLOWED[package]:
                    wrong.append(_where(path, line, module))
    assert wrong == []


def test_generated_code_imports_nothing_of_ours() -> None:
    folder = ROOT / "gen/python/animus"
    wrong = [
        _where(path, line, module)
        for path in _files(folder)
        for line, module in _imports(path, folder)
        if module.startswith("animus_")
    ]
    assert wrong == []


def test_the_agent_knows_nothing_of_servers() -> None:
    folder = FOLDERS["animus_agent"]
    wrong = [
        _where(path, line, module)
        for path in _files(folder)
        for line, module in _imports(path, folder)
        if any(_is(module, forbidden) for forbidden in AGENT_FORBIDDEN)
    ]
    assert wrong == []


def test_the_kit_base_does_not_import_its_server_parts() -> None:
    """The agent installs the kit without the extra: what lies outside server, db and testing must not need it."""
    folder = FOLDERS["animus_kit"]
    wrong = [
        _where(path, line, module)
        for path in _files(folder)
        if path.relative_to(folder).parts[0] not in ("server", "db", "testing")
        for line, module in _imports(path, folder)
        if any(_is(module, forbidden) for forbidden in (*AGENT_FORBIDDEN, "structlog", "prometheus_client", "jose"))
    ]
    assert wrong == []


def test_domains_do_no_io_and_stores_do_not_know_the_service() -> None:
    wrong = []
    for service in SERVICES:
        package = f"animus_{service}"
        folder = FOLDERS[package]
        rules = {
            "domain": (*IO, *(f"{package}.{room}" for room in ("store", "service", "tail"))),
            "store": ("grpc", f"{package}.service"),
        }
        for room, forbidden in rules.items():
            for path in _files(folder / room):
                wrong += [
                    _where(path, line, module)
                    for line, module in _imports(path, folder)
                    if any(_is(module, prefix) for prefix in forbidden)
                ]
    assert wrong == []
