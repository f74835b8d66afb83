"""Tables that must agree with something else: permissions, schema, states on the wire, settings."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from animus.agent.v1 import dispatch_pb2, enrollment_pb2
from animus.orchestrator.v1 import agent_pb2, pipeline_pb2, pool_pb2, quota_pb2, run_pb2, run_stream_pb2
from animus_kit.settings import SettingsError, load
from animus_orchestrator import __main__ as program
from animus_orchestrator import permissions
from animus_orchestrator.domain.agent import AgentState
from animus_orchestrator.domain.attempt import AttemptState
from animus_orchestrator.domain.failure import FailureClass
from animus_orchestrator.domain.run import RunState
from animus_orchestrator.domain.step import StepState
from animus_orchestrator.settings import DispatchSettings
from animus_orchestrator.store.schema import metadata

MODULES = (agent_pb2, pipeline_pb2, pool_pb2, quota_pb2, run_pb2, run_stream_pb2, dispatch_pb2, enrollment_pb2)


def test_every_method_has_a_row_and_no_row_is_left_over():
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(permissions.ROWS)


def test_what_streams_is_on_an_aio_listener():
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.client_streaming or method.server_streaming:
                    assert f"/{service.full_name}/{method.name}" not in permissions.API_ROWS


def test_policy_knows_every_permission():
    known = tomllib.loads(resources.files("animus_policy").joinpath("cedar/permissions.toml").read_text())
    every = {permission for names in known.values() for permission in names}
    assert {row.permission for row in permissions.ROWS.values() if row.permission} <= every


def test_only_enrolment_is_open_to_callers_without_a_certificate():
    open_rows = [method for method, row in permissions.ROWS.items() if "none" in row.peers]
    assert open_rows == ["/animus.agent.v1.EnrollmentService/Enroll"]


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (RunState, run_pb2.Run.State, "STATE_"),
        (StepState, run_pb2.Step.State, "STATE_"),
        (AttemptState, run_pb2.Attempt.State, "STATE_"),
        (FailureClass, run_pb2.Attempt.FailureClass, "FAILURE_CLASS_"),
        (AgentState, agent_pb2.Agent.State, "STATE_"),
    ],
)
def test_states_have_the_names_of_the_wire(ours, wire, prefix):
    assert {prefix + one.value for one in ours} == set(wire.keys()) - {prefix + "UNSPECIFIED"}


def test_the_migrations_make_the_tables_that_the_code_sees(database):
    with sa.create_engine(
        "postgresql+psycopg://", creator=lambda: __import__("psycopg").connect(database.dsn("orchestrator"))
    ).connect() as conn:
        conn.execute(sa.text("SET search_path = orchestrator"))
        context = MigrationContext.configure(
            conn, opts={"include_name": lambda name, kind, _: name != "alembic_version", "compare_type": True}
        )
        differences = [d for d in compare_metadata(context, metadata) if d[0] != "remove_index"]
    assert differences == []


def test_the_runtime_role_cannot_change_what_was_planned_or_written(database):
    engine = database.engine("orchestrator")
    for table in ("plans", "policy_snapshots", "pipeline_versions", "log_chunks", "metric_points", "step_outputs"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {_column(table)} = {_column(table)}"):
            with engine.connect() as conn, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                conn.execute(sa.text(statement))


def _column(table: str) -> str:
    return next(iter(metadata.tables[table].columns)).name


def test_settings_that_cannot_work_are_refused_together():
    with pytest.raises(SettingsError) as error:
        load(DispatchSettings, {"ANIMUS_LEASE_DURATION": "soon"})
    assert {"ANIMUS_DSN: must be set", "ANIMUS_CONTRACT_KEY: must be set"} <= set(error.value.problems)
    every = {f"ANIMUS_{f.upper()}": "/x" for f in DispatchSettings.__dataclass_fields__}
    every |= {"ANIMUS_LEASE_DURATION": "10s", "ANIMUS_LEASE_MARGIN": "5s", "ANIMUS_STATUS_INTERVAL": "4s"}
    every |= {"ANIMUS_LOG_LIMIT_BYTES": "1", "ANIMUS_RESERVE_AFTER": "60s"}
    with pytest.raises(SettingsError, match="ANIMUS_STATUS_INTERVAL"):
        load(DispatchSettings, every)
    load(DispatchSettings, {**every, "ANIMUS_STATUS_INTERVAL": "2s"})


def test_the_program_explains_itself(capsys):
    assert program.main([]) == 2
    assert "serve | dispatch | migrate" in capsys.readouterr().err


def test_the_readme_lists_every_reason_and_setting():
    readme = Path(program.__file__).parents[1].joinpath("README.md").read_text()
    errors = Path(program.__file__).parent.joinpath("domain/errors.py").read_text()
    reasons = set(re.findall(r'reason = "([A-Z_]+)"', errors))
    assert not {r for r in reasons if r not in readme}
    assert not {f for f in DispatchSettings.__dataclass_fields__ if f"ANIMUS_{f.upper()}" not in readme}
