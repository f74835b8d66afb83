"""The tables, as SQLAlchemy Core sees them. `migrations/` creates them; a test compares the two.

Over 400 lines because it is one list, looked up by name.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from animus_kit.db import outbox
from animus_kit.server import idempotency

metadata = sa.MetaData()

Text, Bytes, BigInt, Int, Bool, Float = sa.Text, sa.LargeBinary, sa.BigInteger, sa.Integer, sa.Boolean, sa.Double
Time = sa.TIMESTAMP(timezone=True)
Texts = pg.ARRAY(sa.Text)


def _text(name: str, **kw) -> sa.Column:
    return sa.Column(name, Text, nullable=False, server_default="", **kw)


def _int(name: str) -> sa.Column:
    return sa.Column(name, BigInt, nullable=False, server_default="0")


def _bool(name: str) -> sa.Column:
    return sa.Column(name, Bool, nullable=False, server_default=sa.false())


def among(name: str, kind: type[sa.types.TypeEngine]) -> sa.ColumnElement:
    """`column == among("names", sa.Text)`: one of an array that is bound under this name.

    Statements on the hot path are built once, as constants: building one costs as much as running it.
    """
    return sa.any_(sa.bindparam(name, type_=sa.ARRAY(kind)))


pipelines = sa.Table(
    "pipelines",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("id", Text, primary_key=True),
    _text("display_name"),
    _text("description"),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    _int("latest_version"),
    _text("creator"),
    sa.Column("create_time", Time, nullable=False),
    sa.Column("update_time", Time, nullable=False),
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
    sa.Index("pipelines_by_time", "project", "create_time", "id"),
)

pipeline_versions = sa.Table(
    "pipeline_versions",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("pipeline", Text, primary_key=True),
    sa.Column("number", BigInt, primary_key=True),
    sa.Column("document", Bytes, nullable=False),
    sa.Column("media_type", Text, nullable=False),
    sa.Column("canonical_document", Bytes, nullable=False),
    sa.Column("pipeline_digest", Text, nullable=False),
    _text("creator"),
    sa.Column("create_time", Time, nullable=False),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("digest", Text, primary_key=True),
    sa.Column("document", Bytes, nullable=False),
)

policy_snapshots = sa.Table(
    "policy_snapshots",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("digest", Text, primary_key=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("document", Bytes, nullable=False),
)

pools = sa.Table(
    "pools",
    metadata,
    sa.Column("id", Text, primary_key=True),
    _text("description"),
    # That may use it; empty means every project.
    sa.Column("projects", Texts, nullable=False, server_default="{}"),
    _bool("paused"),
    _text("creator"),
    sa.Column("create_time", Time, nullable=False),
    sa.Column("update_time", Time, nullable=False),
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
    sa.Index("pools_by_time", "create_time", "id"),
)

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("project", Text, primary_key=True),
    # NULL is no limit.
    sa.Column("cpu_millis", BigInt),
    sa.Column("memory_bytes", BigInt),
    sa.Column("gpus", BigInt),
    sa.Column("active_runs", BigInt),
    sa.Column("stored_bytes", BigInt),
    sa.Column("weight", Int, nullable=False, server_default="1"),
    sa.Column("update_time", Time, nullable=False),
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
)

# What leases took and gave back: a project uses the sum of its rows. Rows rather than a counter, so that nobody waits for
# another's transaction; the reaper folds them together.
usage_changes = sa.Table(
    "usage_changes",
    metadata,
    sa.Column("uid", BigInt, sa.Identity(), primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("cpu_millis", BigInt, nullable=False),
    sa.Column("memory_bytes", BigInt, nullable=False),
    sa.Column("gpus", BigInt, nullable=False),
    sa.Column("attempts", BigInt, nullable=False),
    sa.Index("usage_by_project", "project"),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("uid", BigInt, sa.Identity(), primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("id", Text, nullable=False),
    sa.Column("pipeline", Text, nullable=False),
    sa.Column("pipeline_version", Text, nullable=False),
    sa.Column("bindings", Bytes, nullable=False),
    sa.Column("state", Text, nullable=False),
    _text("reason"),
    _text("message"),
    sa.Column("plan_digest", Text, nullable=False),
    sa.Column("policy_snapshot_digest", Text, nullable=False),
    _text("decision"),
    _text("decision_digest"),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    _text("experiment"),
    sa.Column("pool", Text, nullable=False, server_default="default"),
    sa.Column("node_labels", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("priority", Int, nullable=False, server_default="0"),
    # False while it waits for room under its project's limit of active runs.
    sa.Column("admitted", Bool, nullable=False, server_default=sa.true()),
    _text("creator"),
    sa.Column("create_time", Time, nullable=False),
    sa.Column("start_time", Time),
    sa.Column("end_time", Time),
    # Counts every change of the run and of its steps: the etag, and where a watcher stands.
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
    sa.UniqueConstraint("project", "id"),
    sa.Index("runs_by_time", "project", "create_time", "id"),
    sa.Index("runs_by_pipeline", "project", "pipeline", "create_time", "id"),
    sa.Index("runs_by_creator", "project", "creator", "create_time", "id"),
    sa.Index(
        "runs_by_experiment",
        "project",
        "experiment",
        "create_time",
        "id",
        postgresql_where=sa.text("experiment <> ''"),
    ),
    sa.Index("runs_by_labels", "labels", postgresql_using="gin"),
    sa.Index(
        "runs_active",
        "project",
        postgresql_where=sa.text("admitted AND state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')"),
    ),
    sa.Index(
        "runs_waiting",
        "project",
        sa.text("priority DESC"),
        "create_time",
        "uid",
        postgresql_where=sa.text("NOT admitted AND state = 'QUEUED'"),
    ),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("uid", BigInt, sa.Identity(), primary_key=True),
    sa.Column("run_uid", BigInt, sa.ForeignKey("runs.uid"), nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("ordinal", Int, nullable=False),
    sa.Column("state", Text, nullable=False),
    _text("reason"),
    _text("message"),
    sa.Column("dependencies", Texts, nullable=False, server_default="{}"),
    sa.Column("recipe", Bytes, nullable=False),
    sa.Column("recipe_digest", Text, nullable=False),
    sa.Column("action", Bytes),
    _text("action_digest"),
    # Where the action's digests come from: [{name, kind: dataset|artifact, resource | step + output}], and
    # {resource, digest} of the code and of the environment's lock.
    sa.Column("inputs", pg.JSONB, nullable=False, server_default="[]"),
    sa.Column("code", pg.JSONB),
    sa.Column("environment_lock", pg.JSONB, nullable=False),
    # What the queue needs to know, out of the plan. `project` stands here so that a lease reads one table.
    sa.Column("project", Text, nullable=False),
    sa.Column("pool", Text, nullable=False, server_default="default"),
    # Labels that an agent must carry, each "key=value".
    sa.Column("selector", Texts, nullable=False, server_default="{}"),
    sa.Column("priority", Int, nullable=False, server_default="0"),
    # Its run's.
    sa.Column("admitted", Bool, nullable=False, server_default=sa.true()),
    _int("cpu_millis"),
    _int("memory_bytes"),
    sa.Column("gpus", Int, nullable=False, server_default="0"),
    _text("gpu_model"),
    _text("platform"),
    sa.Column("capabilities", Texts, nullable=False, server_default="{}"),
    _int("timeout_seconds"),
    sa.Column("retry", pg.JSONB, nullable=False, server_default="{}"),
    _int("current_attempt"),
    _int("ran_attempts"),
    _int("early_losses"),
    sa.Column("not_before", Time),
    sa.Column("quiet_at", Time),
    sa.Column("metrics", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("ready_time", Time),
    sa.Column("start_time", Time),
    sa.Column("end_time", Time),
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
    sa.UniqueConstraint("run_uid", "name"),
    # A queue for each pool and project.
    sa.Index(
        "steps_ready",
        "pool",
        "project",
        sa.text("priority DESC"),
        "ready_time",
        "uid",
        postgresql_where=sa.text("state = 'READY' AND admitted"),
    ),
    sa.Index("steps_retrying", "not_before", postgresql_where=sa.text("state = 'RETRYING'")),
)

step_outputs = sa.Table(
    "step_outputs",
    metadata,
    sa.Column("step_uid", BigInt, sa.ForeignKey("steps.uid"), primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("manifest_digest", Text, nullable=False),
    sa.Column("artifact", Text, nullable=False),
    _int("file_count"),
    _int("size_bytes"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("step_uid", BigInt, sa.ForeignKey("steps.uid"), primary_key=True),
    sa.Column("number", BigInt, primary_key=True),
    sa.Column("run_uid", BigInt, nullable=False),
    # Its full name, by which agents speak of it.
    sa.Column("name", Text, nullable=False, unique=True),
    sa.Column("agent", Text, nullable=False),
    # The process of the agent that was given the lease, and whether it has ever listed the attempt.
    _text("instance_id"),
    _bool("listed"),
    sa.Column("state", Text, nullable=False),
    sa.Column("lease_until", Time, nullable=False),
    _bool("ran"),
    sa.Column("failure_class", Text),
    _text("reason"),
    _text("message"),
    sa.Column("exit_code", Int),
    _int("log_size"),
    _bool("log_truncated"),
    _int("metric_count"),
    sa.Column("contract", Bytes, nullable=False),
    sa.Column("grant", Bytes, nullable=False),
    sa.Column("gpu_uuids", Texts, nullable=False, server_default="{}"),
    sa.Column("provenance", Bytes),
    sa.Column("sandbox_report", Bytes),
    sa.Column("lease_time", Time, nullable=False),
    sa.Column("start_time", Time),
    sa.Column("end_time", Time),
    # What a node was ever given, for who has to judge it afterwards.
    sa.Index("attempts_by_agent", "agent", "lease_time", "step_uid", "number"),
    sa.Index(
        "attempts_live",
        "lease_until",
        postgresql_where=sa.text("state IN ('LEASED', 'PREPARING', 'RUNNING', 'FINISHING', 'CANCELING')"),
    ),
    # Whose GPUs are not given again before its lease has run out.
    sa.Index("attempts_lost", "agent", "lease_until", postgresql_where=sa.text("state = 'LOST'")),
    sa.Index(
        "attempts_held",
        "agent",
        postgresql_where=sa.text("state IN ('LEASED', 'PREPARING', 'RUNNING', 'FINISHING', 'CANCELING')"),
    ),
)

log_chunks = sa.Table(
    "log_chunks",
    metadata,
    sa.Column("step_uid", BigInt, primary_key=True),
    sa.Column("number", BigInt, primary_key=True),
    sa.Column("offset_bytes", BigInt, primary_key=True),
    sa.Column("data", Bytes, nullable=False),
    _bool("stderr"),
    # Bytes before offset_bytes are missing.
    _bool("truncated"),
)

metric_points = sa.Table(
    "metric_points",
    metadata,
    sa.Column("step_uid", BigInt, primary_key=True),
    sa.Column("number", BigInt, primary_key=True),
    sa.Column("index", BigInt, primary_key=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("step", BigInt, nullable=False),
    sa.Column("value", Float, nullable=False),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("pool", Text, nullable=False),
    sa.Column("projects", Texts, nullable=False, server_default="{}"),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    # What people decided, and the server on its own: `revision` counts its changes. `draining` is the node's own wish.
    _text("cordoned"),
    _text("state_message"),
    sa.Column("drain_time", Time),
    sa.Column("drain_until", Time),
    sa.Column("drained_time", Time),
    _bool("preempting"),
    _bool("revoked"),
    sa.Column("revoke_time", Time),
    sa.Column("revision", BigInt, nullable=False, server_default="1"),
    _bool("draining"),
    _int("session"),
    _bool("session_open"),
    _text("instance_id"),
    sa.Column("past_instances", Texts, nullable=False, server_default="{}"),
    _text("boot_id"),
    sa.Column("clock_skew_seconds", Float, nullable=False, server_default="0"),
    # NodeInfo, as the agent sent it.
    sa.Column("claimed", Bytes),
    sa.Column("attestation_key", Bytes, nullable=False),
    sa.Column("attestation_certificate", Bytes, nullable=False),
    sa.Column("attestation_not_after", Time, nullable=False),
    sa.Column("serial", Text, nullable=False),
    sa.Column("certificate", Bytes, nullable=False),
    sa.Column("certificate_expire_time", Time, nullable=False),
    # The certificate that takes over when it is first used.
    sa.Column("next_serial", Text),
    sa.Column("next_certificate", Bytes),
    sa.Column("next_key_digest", Text),
    sa.Column("next_expire_time", Time),
    sa.Column("enroll_time", Time, nullable=False),
    sa.Column("last_seen_time", Time),
    sa.Index("agents_by_time", "enroll_time", "id"),
)

# The newest lines of agents' own logs. A bounded number of each agent is kept.
agent_logs = sa.Table(
    "agent_logs",
    metadata,
    sa.Column("agent", Text, primary_key=True),
    sa.Column("index", BigInt, sa.Identity(), primary_key=True),
    sa.Column("receive_time", Time, nullable=False),
    sa.Column("client_time", Time),
    sa.Column("level", Int, nullable=False),
    _text("logger"),
    _text("message"),
    _text("fields"),
    _int("dropped_before"),
)

agent_spools = sa.Table(
    "agent_spools",
    metadata,
    sa.Column("agent", Text, sa.ForeignKey("agents.id"), primary_key=True),
    sa.Column("spool_id", Text, primary_key=True),
    sa.Column("last_seq", BigInt, nullable=False),
    sa.Column("create_time", Time, nullable=False, server_default=sa.func.now()),
)

join_tokens = sa.Table(
    "join_tokens",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("secret_hash", Bytes, nullable=False),
    sa.Column("agent", Text, nullable=False),
    sa.Column("pool", Text, nullable=False),
    sa.Column("projects", Texts, nullable=False, server_default="{}"),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    _text("creator"),
    _bool("replace_identity"),
    sa.Column("create_time", Time, nullable=False),
    sa.Column("expire_time", Time, nullable=False),
    sa.Column("revoke_time", Time),
    # Digest of both public keys of the agent that used it, and what it was answered.
    sa.Column("used_by", Text),
    sa.Column("used_time", Time),
    sa.Column("response", Bytes),
    sa.Index("join_tokens_by_time", "create_time", "id"),
)

dispatch_alive = sa.Table(
    "dispatch_alive",
    metadata,
    sa.Column("one", Bool, primary_key=True, server_default=sa.true()),
    sa.Column("at", Time, nullable=False),
    sa.CheckConstraint("one", name="one_row"),
)

outbox.tables(metadata)
idempotency.tables(metadata)
