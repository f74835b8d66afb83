"""The permission tables of all services against the descriptors and against permissions.toml."""

import importlib
from pathlib import Path

from animus_kit.testing.contracts import assert_no_streams, assert_table_covers
from animus_policy.domain.engine import SUBMIT, PolicySet
from animus_policy.permissions import ROWS

SERVICES = Path(__file__).resolve().parents[2] / "services"
# Asked by a handler rather than by a row, or by the engine of decisions.
ASKED_ELSEWHERE = {"audit.events.get", "orchestrator.runs.prioritize", SUBMIT}


def tables():
    """(service, rows) for each service in the tree that has a table."""
    for folder in sorted(SERVICES.iterdir()):
        if (folder / f"animus_{folder.name}" / "permissions.py").exists():
            module = importlib.import_module(f"animus_{folder.name}.permissions")
            for value in vars(module).values():
                if isinstance(value, dict) and value and all(str(key).startswith("/animus.") for key in value):
                    yield folder.name, value


def test_the_table_covers_the_descriptors():
    assert_table_covers(
        ROWS,
        [
            f"animus.policy.v1.{s}"
            for s in ("RoleBindingService", "DecisionService", "AccessService", "DecisionPointService")
        ],
    )
    assert_no_streams([f"animus.policy.v1.{s}" for s in ("RoleBindingService", "DecisionService", "AccessService")])


def test_every_permission_of_every_service_has_a_least_role():
    used = {row.permission for _, rows in tables() for row in rows.values() if row.permission}
    known = set(PolicySet.load().permissions)
    assert used - known == set(), "add these to animus_policy/cedar/permissions.toml"
    assert known - used - ASKED_ELSEWHERE == set(), "no table uses these: remove them from permissions.toml"


def test_a_permission_belongs_to_the_service_that_asks_for_it():
    for service, rows in tables():
        for method, row in rows.items():
            assert row.permission is None or row.permission.startswith(f"{service}."), method
