"""Who may call what, over all services together: no method without a row, and no circle of calls.

audit ─▶ lineage, orchestrator ─▶ catalog ─▶ policy
"""

import animus_audit.permissions
import animus_catalog.permissions
import animus_lineage.permissions
import animus_orchestrator.permissions
import animus_policy.permissions
from animus_kit.testing.contracts import assert_acyclic, assert_table_covers, call_graph, services

TABLES = {
    "audit": animus_audit.permissions.ROWS,
    "catalog": animus_catalog.permissions.ROWS,
    "lineage": animus_lineage.permissions.ROWS,
    "orchestrator": animus_orchestrator.permissions.ROWS,
    "policy": animus_policy.permissions.ROWS,
}
# Who stands before whom in design order; a service may call those after it.
ORDER = ("audit", "lineage", "orchestrator", "catalog", "policy")


def test_every_method_of_every_service_has_its_row():
    rows = {name: row for table in TABLES.values() for name, row in table.items()}
    assert len(rows) == sum(len(table) for table in TABLES.values()), "a method stands in two tables"
    assert_table_covers(rows, services())


def test_calls_go_one_way():
    assert_acyclic(TABLES)
    for caller, callees in call_graph(TABLES).items():
        for callee in callees:
            assert ORDER.index(caller) < ORDER.index(callee), f"{caller} may call {callee}"


def test_policy_calls_nobody():
    assert call_graph(TABLES)["policy"] == set()
