"""Pipelines, plans, runs, steps, attempts, logs, metrics, agents, join tokens; outbox and idempotency."""

import sqlalchemy as sa
from alembic import op

from animus_kit.db import outbox
from animus_kit.db.migrate import grant
from animus_kit.server import idempotency

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE agents (
            id TEXT NOT NULL,
            pool TEXT NOT NULL,
            projects TEXT[] DEFAULT '{}' NOT NULL,
            labels JSONB DEFAULT '{}' NOT NULL,
            cordoned TEXT DEFAULT '' NOT NULL,
            draining BOOLEAN DEFAULT false NOT NULL,
            revoked BOOLEAN DEFAULT false NOT NULL,
            session BIGINT DEFAULT '0' NOT NULL,
            session_open BOOLEAN DEFAULT false NOT NULL,
            instance_id TEXT DEFAULT '' NOT NULL,
            past_instances TEXT[] DEFAULT '{}' NOT NULL,
            boot_id TEXT DEFAULT '' NOT NULL,
            clock_skew_seconds DOUBLE PRECISION DEFAULT '0' NOT NULL,
            claimed BYTEA,
            attestation_key BYTEA NOT NULL,
            attestation_certificate BYTEA NOT NULL,
            attestation_not_after TIMESTAMP WITH TIME ZONE NOT NULL,
            serial TEXT NOT NULL,
            certificate BYTEA NOT NULL,
            certificate_expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
            next_serial TEXT,
            next_certificate BYTEA,
            next_key_digest TEXT,
            next_expire_time TIMESTAMP WITH TIME ZONE,
            enroll_time TIMESTAMP WITH TIME ZONE NOT NULL,
            last_seen_time TIMESTAMP WITH TIME ZONE,
            PRIMARY KEY (id)
        ) WITH (fillfactor = 70)""")
    op.execute("CREATE INDEX agents_by_time ON agents (enroll_time, id)")
    op.execute("""
        CREATE TABLE dispatch_alive (
            one BOOLEAN DEFAULT true NOT NULL,
            at TIMESTAMP WITH TIME ZONE NOT NULL,
            PRIMARY KEY (one),
            CONSTRAINT one_row CHECK (one)
        )""")
    op.execute("""
        CREATE TABLE join_tokens (
            id TEXT NOT NULL,
            secret_hash BYTEA NOT NULL,
            agent TEXT NOT NULL,
            pool TEXT NOT NULL,
            projects TEXT[] DEFAULT '{}' NOT NULL,
            labels JSONB DEFAULT '{}' NOT NULL,
            creator TEXT DEFAULT '' NOT NULL,
            create_time TIMESTAMP WITH TIME ZONE NOT NULL,
            expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
            used_by TEXT,
            used_time TIMESTAMP WITH TIME ZONE,
            response BYTEA,
            PRIMARY KEY (id)
        )""")
    op.execute("""
        CREATE TABLE log_chunks (
            step_uid BIGINT NOT NULL,
            number BIGINT NOT NULL,
            offset_bytes BIGINT NOT NULL,
            data BYTEA NOT NULL,
            stderr BOOLEAN DEFAULT false NOT NULL,
            truncated BOOLEAN DEFAULT false NOT NULL,
            PRIMARY KEY (step_uid, number, offset_bytes)
        )""")
    op.execute("""
        CREATE TABLE metric_points (
            step_uid BIGINT NOT NULL,
            number BIGINT NOT NULL,
            index BIGINT NOT NULL,
            name TEXT NOT NULL,
            step BIGINT NOT NULL,
            value DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (step_uid, number, index)
        )""")
    op.execute("""
        CREATE TABLE pipeline_versions (
            project TEXT NOT NULL,
            pipeline TEXT NOT NULL,
            number BIGINT NOT NULL,
            document BYTEA NOT NULL,
            media_type TEXT NOT NULL,
            canonical_document BYTEA NOT NULL,
            pipeline_digest TEXT NOT NULL,
            creator TEXT DEFAULT '' NOT NULL,
            create_time TIMESTAMP WITH TIME ZONE NOT NULL,
            PRIMARY KEY (project, pipeline, number)
        )""")
    op.execute("""
        CREATE TABLE pipelines (
            project TEXT NOT NULL,
            id TEXT NOT NULL,
            display_name TEXT DEFAULT '' NOT NULL,
            description TEXT DEFAULT '' NOT NULL,
            labels JSONB DEFAULT '{}' NOT NULL,
            latest_version BIGINT DEFAULT '0' NOT NULL,
            creator TEXT DEFAULT '' NOT NULL,
            create_time TIMESTAMP WITH TIME ZONE NOT NULL,
            update_time TIMESTAMP WITH TIME ZONE NOT NULL,
            revision BIGINT DEFAULT '1' NOT NULL,
            PRIMARY KEY (project, id)
        )""")
    op.execute("CREATE INDEX pipelines_by_time ON pipelines (project, create_time, id)")
    op.execute("""
        CREATE TABLE plans (
            project TEXT NOT NULL,
            digest TEXT NOT NULL,
            document BYTEA NOT NULL,
            PRIMARY KEY (project, digest)
        )""")
    op.execute("""
        CREATE TABLE policy_snapshots (
            project TEXT NOT NULL,
            digest TEXT NOT NULL,
            name TEXT NOT NULL,
            document BYTEA NOT NULL,
            PRIMARY KEY (project, digest)
        )""")
    op.execute("""
        CREATE TABLE runs (
            uid BIGINT GENERATED BY DEFAULT AS IDENTITY,
            project TEXT NOT NULL,
            id TEXT NOT NULL,
            pipeline TEXT NOT NULL,
            pipeline_version TEXT NOT NULL,
            bindings BYTEA NOT NULL,
            state TEXT NOT NULL,
            reason TEXT DEFAULT '' NOT NULL,
            message TEXT DEFAULT '' NOT NULL,
            plan_digest TEXT NOT NULL,
            policy_snapshot_digest TEXT NOT NULL,
            decision TEXT DEFAULT '' NOT NULL,
            decision_digest TEXT DEFAULT '' NOT NULL,
            labels JSONB DEFAULT '{}' NOT NULL,
            experiment TEXT DEFAULT '' NOT NULL,
            creator TEXT DEFAULT '' NOT NULL,
            create_time TIMESTAMP WITH TIME ZONE NOT NULL,
            start_time TIMESTAMP WITH TIME ZONE,
            end_time TIMESTAMP WITH TIME ZONE,
            revision BIGINT DEFAULT '1' NOT NULL,
            PRIMARY KEY (uid),
            UNIQUE (project, id)
        ) WITH (fillfactor = 70)""")
    op.execute("CREATE INDEX runs_by_labels ON runs USING gin (labels)")
    op.execute("CREATE INDEX runs_by_pipeline ON runs (project, pipeline, create_time, id)")
    op.execute("CREATE INDEX runs_by_time ON runs (project, create_time, id)")
    op.execute("""
        CREATE TABLE agent_spools (
            agent TEXT NOT NULL,
            spool_id TEXT NOT NULL,
            last_seq BIGINT NOT NULL,
            PRIMARY KEY (agent, spool_id),
            FOREIGN KEY(agent) REFERENCES agents (id)
        )""")
    op.execute("""
        CREATE TABLE steps (
            uid BIGINT GENERATED BY DEFAULT AS IDENTITY,
            run_uid BIGINT NOT NULL,
            name TEXT NOT NULL,
            ordinal INTEGER NOT NULL,
            state TEXT NOT NULL,
            reason TEXT DEFAULT '' NOT NULL,
            message TEXT DEFAULT '' NOT NULL,
            dependencies TEXT[] DEFAULT '{}' NOT NULL,
            recipe BYTEA NOT NULL,
            recipe_digest TEXT NOT NULL,
            action BYTEA,
            action_digest TEXT DEFAULT '' NOT NULL,
            inputs JSONB DEFAULT '[]' NOT NULL,
            code JSONB,
            environment_lock JSONB NOT NULL,
            project TEXT NOT NULL,
            pool TEXT DEFAULT 'default' NOT NULL,
            priority INTEGER DEFAULT '0' NOT NULL,
            cpu_millis BIGINT DEFAULT '0' NOT NULL,
            memory_bytes BIGINT DEFAULT '0' NOT NULL,
            gpus INTEGER DEFAULT '0' NOT NULL,
            gpu_model TEXT DEFAULT '' NOT NULL,
            platform TEXT DEFAULT '' NOT NULL,
            capabilities TEXT[] DEFAULT '{}' NOT NULL,
            timeout_seconds BIGINT DEFAULT '0' NOT NULL,
            retry JSONB DEFAULT '{}' NOT NULL,
            current_attempt BIGINT DEFAULT '0' NOT NULL,
            ran_attempts BIGINT DEFAULT '0' NOT NULL,
            early_losses BIGINT DEFAULT '0' NOT NULL,
            not_before TIMESTAMP WITH TIME ZONE,
            quiet_at TIMESTAMP WITH TIME ZONE,
            metrics JSONB DEFAULT '{}' NOT NULL,
            ready_time TIMESTAMP WITH TIME ZONE,
            start_time TIMESTAMP WITH TIME ZONE,
            end_time TIMESTAMP WITH TIME ZONE,
            revision BIGINT DEFAULT '1' NOT NULL,
            PRIMARY KEY (uid),
            UNIQUE (run_uid, name),
            FOREIGN KEY(run_uid) REFERENCES runs (uid)
        ) WITH (fillfactor = 70)""")
    op.execute("CREATE INDEX steps_ready ON steps (priority DESC, ready_time, uid) WHERE state = 'READY'")
    op.execute("CREATE INDEX steps_retrying ON steps (not_before) WHERE state = 'RETRYING'")
    op.execute("""
        CREATE TABLE attempts (
            step_uid BIGINT NOT NULL,
            number BIGINT NOT NULL,
            run_uid BIGINT NOT NULL,
            name TEXT NOT NULL,
            agent TEXT NOT NULL,
            instance_id TEXT DEFAULT '' NOT NULL,
            listed BOOLEAN DEFAULT false NOT NULL,
            state TEXT NOT NULL,
            lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
            ran BOOLEAN DEFAULT false NOT NULL,
            failure_class TEXT,
            reason TEXT DEFAULT '' NOT NULL,
            message TEXT DEFAULT '' NOT NULL,
            exit_code INTEGER,
            log_size BIGINT DEFAULT '0' NOT NULL,
            log_truncated BOOLEAN DEFAULT false NOT NULL,
            metric_count BIGINT DEFAULT '0' NOT NULL,
            contract BYTEA NOT NULL,
            "grant" BYTEA NOT NULL,
            gpu_uuids TEXT[] DEFAULT '{}' NOT NULL,
            provenance BYTEA,
            sandbox_report BYTEA,
            lease_time TIMESTAMP WITH TIME ZONE NOT NULL,
            start_time TIMESTAMP WITH TIME ZONE,
            end_time TIMESTAMP WITH TIME ZONE,
            PRIMARY KEY (step_uid, number),
            FOREIGN KEY(step_uid) REFERENCES steps (uid),
            UNIQUE (name)
        ) WITH (fillfactor = 70)""")
    op.execute(
        "CREATE INDEX attempts_held ON attempts (agent) WHERE state IN ('LEASED', 'PREPARING', 'RUNNING', 'FINISHING', 'CANCELING')"
    )
    op.execute(
        "CREATE INDEX attempts_live ON attempts (lease_until) WHERE state IN ('LEASED', 'PREPARING', 'RUNNING', 'FINISHING', 'CANCELING')"
    )
    op.execute("""
        CREATE TABLE step_outputs (
            step_uid BIGINT NOT NULL,
            name TEXT NOT NULL,
            manifest_digest TEXT NOT NULL,
            artifact TEXT NOT NULL,
            file_count BIGINT DEFAULT '0' NOT NULL,
            size_bytes BIGINT DEFAULT '0' NOT NULL,
            PRIMARY KEY (step_uid, name),
            FOREIGN KEY(step_uid) REFERENCES steps (uid)
        )""")

    metadata = sa.MetaData()
    for table in (*outbox.tables(metadata), idempotency.tables(metadata)):
        table.create(op.get_bind())
    # What was planned, decided, written and measured is never changed.
    grant(op, "SELECT, INSERT", "pipeline_versions", "plans", "policy_snapshots", "step_outputs", "log_chunks")
    grant(op, "SELECT, INSERT", "metric_points")
    grant(op, "SELECT, INSERT, UPDATE", "pipelines", "runs", "steps", "attempts", "agents", "agent_spools")
    grant(op, "SELECT, INSERT, UPDATE", "join_tokens", "dispatch_alive")
