"""Completing the actions of steps whose inputs are now all known."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.documents.action import Action, action_digest
from animus_orchestrator.store.graph import Loaded
from animus_orchestrator.store.schema import step_outputs, steps


def fill_actions(conn: Connection, loaded: Iterable[Loaded]) -> None:
    """Fills the manifests of the outputs before it into each step that became ready, in the same transaction.

    The truth about a result is ours: a step never waits for the catalog to have heard of it.
    """
    waiting = {one.graph.steps[name].uid for one in loaded for name in one.graph.became_ready}
    if not waiting:
        return
    for one in loaded:
        one.graph.became_ready.clear()
    rows = conn.execute(
        sa.select(steps.c.uid, steps.c.run_uid, steps.c.recipe, steps.c.inputs).where(
            steps.c.uid == sa.any_(sa.literal(sorted(waiting), sa.ARRAY(sa.BigInteger))), steps.c.action.is_(None)
        )
    ).all()
    if not rows:
        return
    outputs = {
        (row.run_uid, row.step, row.name): row.manifest_digest
        for row in conn.execute(
            sa.select(steps.c.run_uid, steps.c.name.label("step"), step_outputs.c.name, step_outputs.c.manifest_digest)
            .join(steps, steps.c.uid == step_outputs.c.step_uid)
            .where(steps.c.run_uid == sa.any_(sa.literal(sorted({r.run_uid for r in rows}), sa.ARRAY(sa.BigInteger))))
        )
    }
    filled = []
    for row in rows:
        manifests = {
            i["name"]: outputs[row.run_uid, i["step"], i["output"]] for i in row.inputs if i["kind"] == "artifact"
        }
        action = Action.from_bytes(row.recipe).fill(manifests)
        filled.append({"b_uid": row.uid, "b_action": action.to_bytes(), "b_digest": action_digest(action)})
    conn.execute(
        sa.update(steps)
        .where(steps.c.uid == sa.bindparam("b_uid"))
        .values(action=sa.bindparam("b_action"), action_digest=sa.bindparam("b_digest")),
        filled,
    )
