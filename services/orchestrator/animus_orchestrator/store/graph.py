"""Loading run graphs and writing back what their transitions changed.

The lock of everything in a run is the run's row: whoever changes a run, a step or an attempt holds it. Runs are locked
in the order of their uids, before anything else is written, so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from animus_orchestrator.domain.artifact import artifact_name
from animus_orchestrator.domain.attempt import LIVE, Attempt, AttemptState, Output
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.domain.retry import RetryPolicy
from animus_orchestrator.domain.run import Run, RunGraph, RunState
from animus_orchestrator.domain.step import Step, StepState
from animus_orchestrator.store.listen import LOGS, READY, RUN
from animus_orchestrator.store.schema import among, attempts, runs, step_outputs, steps

LIVE_STATES = [s.value for s in LIVE]


@dataclass
class Loaded:
    """A graph with what the store needs to write it back."""

    graph: RunGraph
    revision: int

    @property
    def uid(self) -> int:
        return self.graph.run.uid


# Actions and recipes are large, and no transition reads them.
_STEP_COLUMNS = [
    steps.c[name]
    for name in (
        "uid", "run_uid", "name", "ordinal", "state", "dependencies", "retry", "current_attempt", "ran_attempts",
        "early_losses", "not_before", "quiet_at", "action_digest", "reason", "message", "ready_time", "start_time",
        "end_time",
    )
]  # fmt: skip


_RUNS = (
    sa.select(
        runs.c.uid, runs.c.project, runs.c.id, runs.c.state, runs.c.reason, runs.c.message, runs.c.start_time,
        runs.c.end_time, runs.c.revision,
    )
    .where(runs.c.uid == among("uids", sa.BigInteger))
    .order_by(runs.c.uid)
)  # fmt: skip
_LOCK_RUNS = _RUNS.with_for_update(key_share=True)
_LOCK_RUNS_FREE = _RUNS.with_for_update(key_share=True, skip_locked=True)
_STEPS = sa.select(*_STEP_COLUMNS).where(
    (steps.c.run_uid == among("runs", sa.BigInteger)) | (steps.c.uid == among("some", sa.BigInteger))
)
_CURRENT_ATTEMPTS = (
    sa.select(
        attempts.c.step_uid, attempts.c.number, attempts.c.agent, attempts.c.state, attempts.c.lease_time,
        attempts.c.ran, attempts.c.failure_class, attempts.c.reason, attempts.c.message, attempts.c.exit_code,
        attempts.c.start_time, attempts.c.end_time,
    )
    .join(steps, (steps.c.uid == attempts.c.step_uid) & (steps.c.current_attempt == attempts.c.number))
    .where(attempts.c.step_uid == among("uids", sa.BigInteger))
)  # fmt: skip
_NOW = sa.select(sa.func.now())


def db_now(conn: Connection) -> datetime:
    """The transaction's time: leases and backoffs are judged by the database's clock alone."""
    return conn.execute(_NOW).scalar_one()


def load(
    conn: Connection,
    run_uids: Iterable[int],
    *,
    partial: Mapping[int, set[int]] | None = None,
    skip_locked: bool = False,
) -> dict[int, Loaded]:
    """Locks runs and reads their graphs.

    `partial` names, for a run, the only steps to read; enough for transitions that end nothing. With `skip_locked`
    runs that somebody else holds are left out.
    """
    wanted = sorted(set(run_uids))
    if not wanted:
        return {}
    loaded: dict[int, Loaded] = {}
    for row in conn.execute(_LOCK_RUNS_FREE if skip_locked else _LOCK_RUNS, {"uids": wanted}):
        run = Run(row.uid, row.project, row.id, RunState(row.state), row.reason, row.message, row.start_time,
                  row.end_time)  # fmt: skip
        loaded[row.uid] = Loaded(RunGraph(run, {}, {}), row.revision)
    partial = partial or {}
    whole = [uid for uid in loaded if uid not in partial]
    some = [step for uid in loaded if uid in partial for step in partial[uid]]
    for row in conn.execute(_STEPS, {"runs": whole, "some": some}):
        loaded[row.run_uid].graph.steps[row.name] = _step(row)
    _load_attempts(conn, loaded)
    return loaded


def _load_attempts(conn: Connection, loaded: dict[int, Loaded]) -> None:
    names = {s.uid: (one, s.name) for one in loaded.values() for s in one.graph.steps.values() if s.current_attempt}
    if not names:
        return
    for row in conn.execute(_CURRENT_ATTEMPTS, {"uids": list(names)}):
        one, step = names[row.step_uid]
        one.graph.attempts[step, row.number] = Attempt(
            step=step,
            number=row.number,
            agent=row.agent,
            state=AttemptState(row.state),
            lease_time=row.lease_time,
            ran=row.ran,
            failure_class=FailureClass(row.failure_class) if row.failure_class else None,
            reason=row.reason,
            message=row.message,
            exit_code=row.exit_code,
            start_time=row.start_time,
            end_time=row.end_time,
        )


def _step(row: Any) -> Step:
    return Step(
        uid=row.uid,
        name=row.name,
        ordinal=row.ordinal,
        state=StepState(row.state),
        dependencies=tuple(row.dependencies),
        retry=RetryPolicy(**row.retry),
        current_attempt=row.current_attempt,
        ran_attempts=row.ran_attempts,
        early_losses=row.early_losses,
        not_before=row.not_before,
        quiet_at=row.quiet_at,
        action_digest=row.action_digest,
        reason=row.reason,
        message=row.message,
        ready_time=row.ready_time,
        start_time=row.start_time,
        end_time=row.end_time,
    )


_UPDATE_STEP = (
    sa.update(steps)
    .where(steps.c.uid == bindparam("b_uid"))
    .values({c: bindparam(f"b_{c}") for c in (
        "state", "reason", "message", "current_attempt", "ran_attempts", "early_losses", "not_before", "quiet_at",
        "ready_time", "start_time", "end_time", "revision")})
)  # fmt: skip

_UPDATE_ATTEMPT = (
    sa.update(attempts)
    .where(attempts.c.step_uid == bindparam("b_step_uid"), attempts.c.number == bindparam("b_number"))
    # The fence once more, in the statement itself: an attempt that has ended is never written again.
    .where(attempts.c.state == sa.any_(sa.literal(LIVE_STATES, sa.ARRAY(sa.Text))))
    .values({c: bindparam(f"b_{c}") for c in (
        "state", "ran", "failure_class", "reason", "message", "exit_code", "start_time", "end_time")})
)  # fmt: skip

_UPDATE_RUN = (
    sa.update(runs)
    .where(runs.c.uid == bindparam("b_uid"))
    .values({c: bindparam(f"b_{c}") for c in ("state", "reason", "message", "start_time", "end_time", "revision")})
)


def save(conn: Connection, loaded: Iterable[Loaded], *, new_attempts: frozenset[tuple[int, int]] = frozenset()) -> None:
    """Writes what changed, and tells watchers. `new_attempts` are inserted by the caller."""
    run_rows, step_rows, attempt_rows, output_rows = [], [], [], []
    ended: list[str] = []
    ready = False
    for one in loaded:
        graph = one.graph
        if not (graph.run_changed or graph.changed_steps or graph.changed_attempts):
            continue
        one.revision += 1
        run = graph.run
        run_rows.append({"b_uid": run.uid, "b_state": run.state.value, "b_reason": run.reason,
                         "b_message": run.message, "b_start_time": run.start_time, "b_end_time": run.end_time,
                         "b_revision": one.revision})  # fmt: skip
        for name in graph.changed_steps | {name for name, _ in graph.changed_attempts}:
            step = graph.steps[name]
            step_rows.append(_step_row(step, one.revision))
            ready = ready or step.state is StepState.READY
            if step.state is StepState.SUCCEEDED and name in graph.changed_steps:
                output_rows += [_output_row(run, step, o) for o in step.outputs]
        for name, number in graph.changed_attempts:
            uid = graph.steps[name].uid
            if graph.attempts[name, number].terminal:
                ended.append(f"{uid}/{number}")
            if (uid, number) not in new_attempts:
                attempt_rows.append(_attempt_row(uid, graph.attempts[name, number]))
        graph.changed_steps.clear()
        graph.changed_attempts.clear()
        graph.run_changed = False
    for statement, rows in ((_UPDATE_RUN, run_rows), (_UPDATE_STEP, step_rows), (_UPDATE_ATTEMPT, attempt_rows)):
        if rows:
            conn.execute(statement, rows)
    if output_rows:
        conn.execute(sa.insert(step_outputs), output_rows)
    news = [(RUN, str(r["b_uid"])) for r in run_rows]
    # Whoever follows the log of an attempt that ended waits for nothing more.
    news += [(LOGS, one) for one in ended]
    if ready:
        news.append((READY, ""))
    notify_all(conn, news)


def notify(conn: Connection, channel: str, payloads: list[str]) -> None:
    """Hints to whoever listens, sent when the transaction commits."""
    notify_all(conn, [(channel, payload) for payload in payloads])


def notify_all(conn: Connection, news: list[tuple[str, str]]) -> None:
    """As `notify`, of (channel, payload) pairs."""
    if news:
        conn.execute(
            sa.text(
                "SELECT pg_notify(c, p) FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS n(c, p)"
            ),
            {"channels": [channel for channel, _ in news], "payloads": [payload for _, payload in news]},
        )


def _step_row(step: Step, revision: int) -> dict[str, Any]:
    return {
        "b_uid": step.uid,
        "b_state": step.state.value,
        "b_reason": step.reason,
        "b_message": step.message,
        "b_current_attempt": step.current_attempt,
        "b_ran_attempts": step.ran_attempts,
        "b_early_losses": step.early_losses,
        "b_not_before": step.not_before,
        "b_quiet_at": step.quiet_at,
        "b_ready_time": step.ready_time,
        "b_start_time": step.start_time,
        "b_end_time": step.end_time,
        "b_revision": revision,
    }


def _attempt_row(uid: int, attempt: Attempt) -> dict[str, Any]:
    return {
        "b_step_uid": uid,
        "b_number": attempt.number,
        "b_state": attempt.state.value,
        "b_ran": attempt.ran,
        "b_failure_class": attempt.failure_class.value if attempt.failure_class else None,
        "b_reason": attempt.reason,
        "b_message": attempt.message,
        "b_exit_code": attempt.exit_code,
        "b_start_time": attempt.start_time,
        "b_end_time": attempt.end_time,
    }


def _output_row(run: Run, step: Step, output: Output) -> dict[str, Any]:
    return {
        "step_uid": step.uid,
        "name": output.name,
        "manifest_digest": output.manifest_digest,
        "artifact": artifact_name(run.project, run.id, step.name, output.name),
        "file_count": output.file_count,
        "size_bytes": output.size_bytes,
    }
