"""Loading run graphs and writing back what their transitions changed.

The lock of everything in a run is the run's row: whoever changes a run, a step or an attempt holds it. Runs are locked
in the order of their uids, before anything else is written, so that no two transactions wait for each other.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_kit.db.bulk import records
from animus_orchestrator.domain.artifact import artifact_name
from animus_orchestrator.domain.attempt import LIVE, Attempt, AttemptState, Output
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.domain.retry import RetryPolicy
from animus_orchestrator.domain.run import Run, RunGraph, RunState
from animus_orchestrator.domain.step import Step, StepState
from animus_orchestrator.store import usage
from animus_orchestrator.store.listen import LOGS, READY, RUN
from animus_orchestrator.store.schema import among, attempts, runs, steps

LIVE_STATES = [s.value for s in LIVE]


@dataclass
class Loaded:
    """A graph with what the store needs to write it back, and what no transition reads but a write or an event needs."""

    graph: RunGraph
    revision: int
    sizes: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Bytes of log and number of metric points, by step and number of an attempt."""
    proofs: dict[tuple[str, int], Proof] = field(default_factory=dict)
    """To be written with the end of an attempt."""
    leased: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """What the events of new leases say beyond their names."""

    @property
    def uid(self) -> int:
        return self.graph.run.uid


@dataclass(frozen=True, slots=True)
class Proof:
    """What an attempt's result leaves beside its state. `metrics` are the step's."""

    provenance: bytes | None
    sandbox_report: bytes | None
    metrics: dict[str, float]


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
_s, _a = steps.c, attempts.c
# Steps with their current attempts. Actions and recipes are large, and no transition reads them.
_STEPS = sa.select(
    _s.uid, _s.run_uid, _s.name, _s.ordinal, _s.state, _s.dependencies, sa.cast(_s.retry, sa.Text).label("retry"),
    _s.current_attempt, _s.ran_attempts, _s.early_losses, _s.not_before, _s.quiet_at, _s.action_digest, _s.reason,
    _s.message, _s.ready_time, _s.start_time, _s.end_time, _s.cpu_millis, _s.memory_bytes, _s.gpus,
    _a.number.label("a_number"), _a.agent.label("a_agent"), _a.state.label("a_state"),
    _a.lease_time.label("a_lease_time"), _a.ran.label("a_ran"), _a.failure_class.label("a_failure_class"),
    _a.reason.label("a_reason"), _a.message.label("a_message"), _a.exit_code.label("a_exit_code"),
    _a.start_time.label("a_start_time"), _a.end_time.label("a_end_time"), _a.log_size.label("a_log_size"),
    _a.metric_count.label("a_metric_count"),
).outerjoin_from(steps, attempts, (_a.step_uid == _s.uid) & (_a.number == _s.current_attempt))  # fmt: skip
_WHOLE = _STEPS.where(_s.run_uid == among("runs", sa.BigInteger))
_SOME = _STEPS.where(_s.uid == among("some", sa.BigInteger))
_SOME_AND_FOLLOWING = _STEPS.where(
    (_s.uid == among("some", sa.BigInteger))
    | (
        (_s.run_uid == among("runs", sa.BigInteger))
        & (_s.state == "PENDING")
        & _s.dependencies.overlap(sa.bindparam("names", type_=sa.ARRAY(sa.Text)))
    )
)
_NAMED = _STEPS.where(_s.run_uid == among("runs", sa.BigInteger), _s.name == among("names", sa.Text))
_REST = (
    sa.select(_s.run_uid, _s.state)
    .where(_s.run_uid == among("runs", sa.BigInteger), _s.uid != sa.all_(sa.bindparam("read", type_=sa.ARRAY(sa.BigInteger))))
    .distinct()
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
    succeeding: Mapping[int, set[int]] | None = None,
    names: Collection[str] = (),
    skip_locked: bool = False,
) -> dict[int, Loaded]:
    """Locks runs and reads their graphs.

    `partial` names, for a run, the only steps to read; enough for transitions that end nothing. `succeeding` is enough
    for those whose steps end well, which `names` names: with them is read what waits for them, what that waits for, and
    of the rest the states. With `skip_locked` runs that somebody else holds are left out.
    """
    wanted = sorted(set(run_uids))
    if not wanted:
        return {}
    loaded: dict[int, Loaded] = {}
    for row in conn.execute(_LOCK_RUNS_FREE if skip_locked else _LOCK_RUNS, {"uids": wanted}):
        run = Run(row.uid, row.project, row.id, RunState(row.state), row.reason, row.message, row.start_time,
                  row.end_time)  # fmt: skip
        loaded[row.uid] = Loaded(RunGraph(run, {}, {}), row.revision)
    partial, succeeding = partial or {}, succeeding or {}
    whole = [uid for uid in loaded if uid not in partial and uid not in succeeding]
    some = {uid for chosen in (partial, succeeding) for run in loaded.keys() & chosen.keys() for uid in chosen[run]}
    if whole:
        _take(loaded, conn.execute(_WHOLE, {"runs": whole}))
    if ending := [uid for uid in loaded if uid in succeeding]:
        values = {"some": list(some), "runs": ending, "names": list(names)}
        _take(loaded, conn.execute(_SOME_AND_FOLLOWING, values))
        _load_after(conn, loaded, ending)
    elif some:
        _take(loaded, conn.execute(_SOME, {"some": list(some)}))
    return loaded


def _load_after(conn: Connection, loaded: dict[int, Loaded], ending: list[int]) -> None:
    """What the steps that may become ready wait for besides, and the states of all others."""
    graphs = [loaded[uid].graph for uid in ending]
    missing = {d for graph in graphs for s in graph.steps.values() for d in s.dependencies if d not in graph.steps}
    if missing:
        _take(loaded, conn.execute(_NAMED, {"runs": ending, "names": list(missing)}))
    read = [step.uid for graph in graphs for step in graph.steps.values()]
    rest: dict[int, set[StepState]] = {}
    for uid, state in conn.execute(_REST, {"runs": ending, "read": read}):
        rest.setdefault(uid, set()).add(StepState(state))
    for uid in ending:
        loaded[uid].graph.rest = frozenset(rest.get(uid, ()))


def _take(loaded: dict[int, Loaded], rows: Iterable[Any]) -> None:
    for row in rows:
        one = loaded[row.run_uid]
        one.graph.steps[row.name] = _step(row)
        if row.a_number is not None:
            one.graph.attempts[row.name, row.a_number] = _attempt(row)
            one.sizes[row.name, row.a_number] = (row.a_log_size, row.a_metric_count)


def _attempt(row: Any) -> Attempt:
    return Attempt(
        step=row.name,
        number=row.a_number,
        agent=row.a_agent,
        state=AttemptState(row.a_state),
        lease_time=row.a_lease_time,
        ran=row.a_ran,
        failure_class=FailureClass(row.a_failure_class) if row.a_failure_class else None,
        reason=row.a_reason,
        message=row.a_message,
        exit_code=row.a_exit_code,
        start_time=row.a_start_time,
        end_time=row.a_end_time,
    )


@functools.lru_cache(maxsize=1024)
def _retry(text: str) -> RetryPolicy:
    return RetryPolicy(**json.loads(text))


def _step(row: Any) -> Step:
    return Step(
        uid=row.uid,
        name=row.name,
        ordinal=row.ordinal,
        state=StepState(row.state),
        dependencies=tuple(row.dependencies),
        retry=_retry(row.retry),
        current_attempt=row.current_attempt,
        ran_attempts=row.ran_attempts,
        early_losses=row.early_losses,
        not_before=row.not_before,
        quiet_at=row.quiet_at,
        action_digest=row.action_digest,
        cpu_millis=row.cpu_millis,
        memory_bytes=row.memory_bytes,
        gpus=row.gpus,
        reason=row.reason,
        message=row.message,
        ready_time=row.ready_time,
        start_time=row.start_time,
        end_time=row.end_time,
    )


# All that a batch changes, in one statement: each is a round trip, and a commit in a chain waits for all of them.
_SAVE = sa.text("""
    WITH changed_runs AS (
        UPDATE runs AS r
        SET state = v.state, reason = v.reason, message = v.message, start_time = v.start_time, end_time = v.end_time,
            revision = v.revision
        FROM json_to_recordset(CAST(:runs AS json)) AS v(uid bigint, state text, reason text, message text,
            start_time timestamptz, end_time timestamptz, revision bigint)
        WHERE r.uid = v.uid
    ), changed_steps AS (
        UPDATE steps AS s
        SET state = v.state, reason = v.reason, message = v.message, current_attempt = v.current_attempt,
            ran_attempts = v.ran_attempts, early_losses = v.early_losses, not_before = v.not_before,
            quiet_at = v.quiet_at, ready_time = v.ready_time, start_time = v.start_time, end_time = v.end_time,
            revision = v.revision, metrics = coalesce(v.metrics, s.metrics)
        FROM json_to_recordset(CAST(:steps AS json)) AS v(uid bigint, state text, reason text, message text,
            current_attempt bigint, ran_attempts bigint, early_losses bigint, not_before timestamptz,
            quiet_at timestamptz, ready_time timestamptz, start_time timestamptz, end_time timestamptz,
            revision bigint, metrics jsonb)
        WHERE s.uid = v.uid
    ), changed_attempts AS (
        UPDATE attempts AS a
        SET state = v.state, ran = v.ran, failure_class = v.failure_class, reason = v.reason, message = v.message,
            exit_code = v.exit_code, start_time = v.start_time, end_time = v.end_time,
            provenance = coalesce(decode(v.provenance, 'base64'), a.provenance),
            sandbox_report = coalesce(decode(v.sandbox_report, 'base64'), a.sandbox_report)
        FROM json_to_recordset(CAST(:attempts AS json)) AS v(step_uid bigint, number bigint, state text, ran boolean,
            failure_class text, reason text, message text, exit_code int, start_time timestamptz,
            end_time timestamptz, provenance text, sandbox_report text)
        WHERE a.step_uid = v.step_uid AND a.number = v.number
          -- The fence once more, in the statement itself: an attempt that has ended is never written again.
          AND a.state = ANY(:live)
    ), new_outputs AS (
        INSERT INTO step_outputs (step_uid, name, manifest_digest, artifact, file_count, size_bytes)
        SELECT * FROM json_to_recordset(CAST(:outputs AS json)) AS v(step_uid bigint, name text, manifest_digest text,
            artifact text, file_count bigint, size_bytes bigint)
    ), changed_usage AS (
        INSERT INTO usage_changes (project, cpu_millis, memory_bytes, gpus, attempts)
        SELECT * FROM json_to_recordset(CAST(:usage AS json)) AS v(project text, cpu_millis bigint, memory_bytes bigint,
            gpus bigint, attempts bigint)
    )
    SELECT pg_notify(n.channel, n.payload)
    FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS n(channel, payload)
""")


def save(conn: Connection, loaded: Iterable[Loaded], *, new_attempts: frozenset[tuple[int, int]] = frozenset()) -> None:
    """Writes what changed, and tells watchers. `new_attempts` are inserted by the caller."""
    run_rows, step_rows, attempt_rows, output_rows = [], [], [], []
    ended: list[str] = []
    leases: list[usage.Change] = []
    ready = False
    for one in loaded:
        graph = one.graph
        if not (graph.run_changed or graph.changed_steps or graph.changed_attempts):
            continue
        one.revision += 1
        run = graph.run
        run_rows.append({"uid": run.uid, "state": run.state, "reason": run.reason, "message": run.message,
                         "start_time": run.start_time, "end_time": run.end_time, "revision": one.revision})  # fmt: skip
        metrics = {name: proof.metrics for (name, _), proof in one.proofs.items() if proof.metrics}
        for name in graph.changed_steps | {name for name, _ in graph.changed_attempts}:
            step = graph.steps[name]
            step_rows.append(_step_row(step, one.revision, metrics.get(name)))
            ready = ready or step.state is StepState.READY
            if step.state is StepState.SUCCEEDED and name in graph.changed_steps:
                output_rows += [_output_row(run, step, o) for o in step.outputs]
        for name, number in graph.changed_attempts:
            uid = graph.steps[name].uid
            if graph.attempts[name, number].terminal:
                ended.append(f"{uid}/{number}")
                # An attempt ends once, under the run's lock.
                leases.append(_change(run, graph.steps[name], -1))
            if (uid, number) in new_attempts:
                leases.append(_change(run, graph.steps[name], 1))
            else:
                attempt_rows.append(_attempt_row(uid, graph.attempts[name, number], one.proofs.get((name, number))))
        graph.changed_steps.clear()
        graph.changed_attempts.clear()
        graph.run_changed = False
    if not run_rows:
        return
    news = [(RUN, str(r["uid"])) for r in run_rows]
    # Whoever follows the log of an attempt that ended waits for nothing more.
    news += [(LOGS, one) for one in ended]
    if ready:
        news.append((READY, ""))
    conn.execute(
        _SAVE,
        {
            "runs": records(run_rows),
            "steps": records(step_rows),
            "attempts": records(attempt_rows),
            "outputs": records(output_rows),
            "usage": records(usage.sums(leases)),
            "live": LIVE_STATES,
            "channels": [channel for channel, _ in news],
            "payloads": [payload for _, payload in news],
        },
    )


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


def _change(run: Run, step: Step, attempts: int) -> usage.Change:
    return usage.Change(run.project, step.cpu_millis, step.memory_bytes, step.gpus, attempts)


def _step_row(step: Step, revision: int, metrics: dict[str, float] | None) -> dict[str, Any]:
    return {
        "uid": step.uid,
        "state": step.state,
        "reason": step.reason,
        "message": step.message,
        "current_attempt": step.current_attempt,
        "ran_attempts": step.ran_attempts,
        "early_losses": step.early_losses,
        "not_before": step.not_before,
        "quiet_at": step.quiet_at,
        "ready_time": step.ready_time,
        "start_time": step.start_time,
        "end_time": step.end_time,
        "revision": revision,
        "metrics": metrics,
    }


def _attempt_row(uid: int, attempt: Attempt, proof: Proof | None) -> dict[str, Any]:
    return {
        "step_uid": uid,
        "number": attempt.number,
        "state": attempt.state,
        "ran": attempt.ran,
        "failure_class": attempt.failure_class,
        "reason": attempt.reason,
        "message": attempt.message,
        "exit_code": attempt.exit_code,
        "start_time": attempt.start_time,
        "end_time": attempt.end_time,
        "provenance": _base64(proof.provenance) if proof else None,
        "sandbox_report": _base64(proof.sandbox_report) if proof else None,
    }


def _base64(data: bytes | None) -> str | None:
    return base64.b64encode(data).decode() if data else None


def _output_row(run: Run, step: Step, output: Output) -> dict[str, Any]:
    return {
        "step_uid": step.uid,
        "name": output.name,
        "manifest_digest": output.manifest_digest,
        "artifact": artifact_name(run.project, run.id, step.name, output.name),
        "file_count": output.file_count,
        "size_bytes": output.size_bytes,
    }
