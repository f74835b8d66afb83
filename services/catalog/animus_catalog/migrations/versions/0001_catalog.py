"""The whole catalog: projects and what stands in them, blobs, and the kit's outbox, requests and tail cursors."""

import sqlalchemy as sa
from alembic import op

from animus_kit.db import outbox, tail
from animus_kit.db.migrate import grant
from animus_kit.server import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_DESCRIBED = """
    display_name text NOT NULL,
    description text NOT NULL,
    labels jsonb NOT NULL,
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    revision integer NOT NULL
"""


def _listed(table: str, *columns: str, labels: bool = True) -> None:
    """The indices that lists are read by."""
    op.execute(f"CREATE INDEX {table}_listed ON {table} ({', '.join(columns)}, create_time, id)")
    if labels:
        op.execute(f"CREATE INDEX {table}_labels ON {table} USING gin (labels jsonb_path_ops)")


def _projects() -> None:
    op.execute(f"""
        CREATE TABLE projects (
            id text COLLATE "C" PRIMARY KEY,
            state text NOT NULL CHECK (state IN ('ACTIVE', 'ARCHIVED')),
            {_DESCRIBED}
        )""")
    op.execute("CREATE INDEX projects_listed ON projects (create_time, id)")
    op.execute("CREATE INDEX projects_labels ON projects USING gin (labels jsonb_path_ops)")
    grant(op, "SELECT, INSERT, UPDATE", "projects")


def _entries(table: str) -> None:
    op.execute(f"""
        CREATE TABLE {table} (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            id text COLLATE "C" NOT NULL,
            latest integer NOT NULL,
            {_DESCRIBED},
            PRIMARY KEY (project, id)
        )""")
    _listed(table, "project")
    grant(op, "SELECT, INSERT, UPDATE", table)


def _dataset_versions() -> None:
    op.execute("""
        CREATE TABLE dataset_versions (
            project text COLLATE "C" NOT NULL,
            dataset text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            number integer NOT NULL,
            manifest_digest text NOT NULL,
            file_count bigint NOT NULL,
            size bigint NOT NULL,
            schema jsonb NOT NULL,
            statistics jsonb NOT NULL,
            source text NOT NULL,
            parents text[] NOT NULL,
            description text NOT NULL,
            labels jsonb NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, dataset, id),
            UNIQUE (project, dataset, number),
            FOREIGN KEY (project, dataset) REFERENCES datasets
        )""")
    _listed("dataset_versions", "project", "dataset")
    grant(op, "SELECT, INSERT", "dataset_versions")


def _code_snapshots() -> None:
    op.execute("""
        CREATE TABLE code_snapshots (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            id text COLLATE "C" NOT NULL,
            object_format text NOT NULL CHECK (object_format IN ('sha1', 'sha256')),
            commit_id text NOT NULL,
            tree_id text NOT NULL,
            manifest_digest text NOT NULL,
            file_count bigint NOT NULL,
            size bigint NOT NULL,
            repository_url text NOT NULL,
            description text NOT NULL,
            labels jsonb NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, id)
        )""")
    _listed("code_snapshots", "project")
    grant(op, "SELECT, INSERT", "code_snapshots")


def _environment_locks() -> None:
    op.execute("""
        CREATE TABLE environment_locks (
            project text COLLATE "C" NOT NULL,
            environment text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            document bytea NOT NULL,
            lock_digest text NOT NULL,
            image_digest text NOT NULL,
            platform text NOT NULL,
            packages jsonb NOT NULL,
            size bigint NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, environment, id),
            FOREIGN KEY (project, environment) REFERENCES environments
        )""")
    _listed("environment_locks", "project", labels=False)
    op.execute("CREATE INDEX environment_locks_image ON environment_locks (project, image_digest, create_time)")
    grant(op, "SELECT, INSERT", "environment_locks")


def _artifacts() -> None:
    op.execute("""
        CREATE TABLE artifacts (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            id text COLLATE "C" NOT NULL,
            attempt text NOT NULL,
            run text NOT NULL,
            step text NOT NULL,
            output text NOT NULL,
            type text NOT NULL,
            media_type text NOT NULL,
            manifest_digest text NOT NULL,
            file_count bigint NOT NULL,
            size bigint NOT NULL,
            metrics jsonb NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, id)
        )""")
    _listed("artifacts", "project", labels=False)
    op.execute("CREATE INDEX artifacts_run ON artifacts (project, run, create_time, id)")
    grant(op, "SELECT, INSERT", "artifacts")


def _model_versions() -> None:
    op.execute("""
        CREATE TABLE model_versions (
            project text COLLATE "C" NOT NULL,
            model text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            number integer NOT NULL,
            artifact text NOT NULL,
            manifest_digest text NOT NULL,
            run text NOT NULL,
            state text NOT NULL,
            metrics jsonb NOT NULL,
            description text NOT NULL,
            labels jsonb NOT NULL,
            creator text NOT NULL,
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            revision integer NOT NULL,
            PRIMARY KEY (project, model, id),
            UNIQUE (project, model, number),
            UNIQUE (project, model, artifact),
            FOREIGN KEY (project, model) REFERENCES models
        )""")
    _listed("model_versions", "project", "model")
    grant(op, "SELECT, INSERT, UPDATE", "model_versions")


def _blobs() -> None:
    op.execute("""
        CREATE TABLE project_blobs (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            digest text COLLATE "C" NOT NULL,
            size bigint NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, digest)
        )""")
    op.execute("""
        CREATE TABLE staged_blobs (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            attempt text COLLATE "C" NOT NULL,
            digest text COLLATE "C" NOT NULL,
            size bigint NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (project, attempt, digest)
        )""")
    op.execute("CREATE INDEX staged_blobs_digest ON staged_blobs (project, digest)")
    # What a project stores is summed without reading the table itself.
    op.execute("CREATE INDEX project_blobs_size ON project_blobs (project) INCLUDE (size)")
    op.execute("CREATE INDEX staged_blobs_size ON staged_blobs (project) INCLUDE (size)")
    op.execute("""
        CREATE TABLE storage_quotas (
            project text COLLATE "C" PRIMARY KEY,
            stored_bytes bigint,
            revision bigint NOT NULL
        )""")
    op.execute("""
        CREATE TABLE ended_attempts (
            attempt text COLLATE "C" PRIMARY KEY,
            committed boolean NOT NULL,
            end_time timestamptz NOT NULL
        )""")
    op.execute("""
        CREATE TABLE refused_agents (
            agent text COLLATE "C" NOT NULL,
            serial text COLLATE "C" NOT NULL,
            refuse_time timestamptz NOT NULL,
            PRIMARY KEY (agent, serial)
        )""")
    op.execute("""
        CREATE TABLE uploads (
            project text COLLATE "C" NOT NULL REFERENCES projects,
            attempt text COLLATE "C" NOT NULL,
            digest text COLLATE "C" NOT NULL,
            size bigint NOT NULL,
            kept bigint NOT NULL,
            staging text NOT NULL,
            update_time timestamptz NOT NULL,
            PRIMARY KEY (project, attempt, digest)
        )""")
    op.execute("CREATE INDEX uploads_age ON uploads (update_time)")
    op.execute("""
        CREATE TABLE containers (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            project text COLLATE "C" NOT NULL REFERENCES projects,
            digest text COLLATE "C" NOT NULL,
            kind text NOT NULL CHECK (kind IN ('manifest', 'image')),
            file_count bigint NOT NULL,
            size bigint NOT NULL,
            UNIQUE (project, digest, kind)
        )""")
    op.execute("""
        CREATE TABLE container_entries (
            container bigint NOT NULL REFERENCES containers,
            path text COLLATE "C" NOT NULL,
            kind text NOT NULL,
            size bigint NOT NULL,
            digest text NOT NULL,
            target text NOT NULL,
            PRIMARY KEY (container, path)
        )""")
    op.execute("CREATE INDEX container_entries_digest ON container_entries (container, digest)")
    grant(op, "SELECT, INSERT", "project_blobs", "ended_attempts", "refused_agents")
    # No container is ever updated: whoever locks a row needs the right to.
    grant(op, "SELECT, INSERT, UPDATE, DELETE", "uploads", "containers")
    grant(op, "SELECT, INSERT, UPDATE", "storage_quotas")
    grant(op, "SELECT, INSERT, DELETE", "staged_blobs", "container_entries")


def upgrade() -> None:
    kit = sa.MetaData()
    for made in (outbox, tail, idempotency):
        made.tables(kit)
    kit.create_all(op.get_bind())
    _projects()
    for table in ("datasets", "environments", "experiments", "models"):
        _entries(table)
    _dataset_versions()
    _code_snapshots()
    _environment_locks()
    _artifacts()
    _model_versions()
    _blobs()


def downgrade() -> None:
    raise NotImplementedError("there is no way back: restore a backup")
