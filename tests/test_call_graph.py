"""Who calls whom, read off the permission tables: never in a circle, and policy nobody (docs/architecture.md)."""

import importlib
from pathlib import Path

from animus_kit.server.authz import Row
from animus_kit.testing.contracts import assert_acyclic, call_graph, services

SERVICES = Path(__file__).resolve().parent.parent / "services"


def tables() -> dict[str, dict[str, Row]]:
    """Every row of every service that has a table."""
    found: dict[str, dict[str, Row]] = {}
    for folder in sorted(SERVICES.iterdir()):
        if (folder / f"animus_{folder.name}" / "permissions.py").exists():
            module = importlib.import_module(f"animus_{folder.name}.permissions")
            rows = [
                v for v in vars(module).values() if isinstance(v, dict) and v and all(_is_row(i) for i in v.items())
            ]
            found[folder.name] = {method: row for table in rows for method, row in table.items()}
    return found


def _is_row(item) -> bool:
    return str(item[0]).startswith("/animus.") and isinstance(item[1], Row)


def test_calls_go_one_way_only():
    assert_acyclic(tables())


def test_the_call_graph_is_the_designs():
    graph = call_graph(tables())
    allowed = {
        "policy": set(),
        "lineage": {"policy"},
        "catalog": {"policy"},
        "orchestrator": {"catalog", "policy"},
        "audit": {"policy", "catalog", "orchestrator", "lineage"},
    }
    for caller, callees in graph.items():
        assert callees <= allowed.get(caller, set()), f"{caller} may not call {callees - allowed.get(caller, set())}"


def test_every_method_of_every_service_stands_in_exactly_one_table():
    seen: dict[str, str] = {}
    for service, rows in tables().items():
        for method in rows:
            assert method not in seen, f"{method} stands in the tables of {seen[method]} and {service}"
            seen[method] = service
    every = {f"/{name}/{method.name}" for name, service in services().items() for method in service.method}
    assert every == set(seen), (every - set(seen), set(seen) - every)
