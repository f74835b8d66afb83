"""Names, digests, times, errors on the wire, traces, logs, retries: what every process uses."""

import importlib
import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from animus_kit import digest, errors, ids, log, names, status, trace
from animus_kit.clock import parse_rfc3339, rfc3339
from animus_kit.errors import FieldViolation
from animus_kit.testing.ids import FakeIds

PATTERN = "projects/{project}/runs/{run}"


def test_names_parse_and_format():
    assert names.parse(PATTERN, "projects/a/runs/b-1") == {"project": "a", "run": "b-1"}
    assert names.format(PATTERN, project="a", run="b-1") == "projects/a/runs/b-1"
    assert names.project_of("projects/a/runs/b") == names.project_of("projects/a") == "projects/a"
    assert names.id_of("projects/a/runs/b") == "b"


@pytest.mark.parametrize(
    "name",
    ["", "projects/a", "projects/A/runs/b", "projects/a/runs/b/", "projects/a/runs/-b", "projects/a/runs/b:cancel",
     "projects/a/runs/" + "x" * 64, "projects/a/runs/b\n", "projects/../runs/b", "projects/a%2Fb/runs/c"],
)  # fmt: skip
def test_bad_names(name):
    with pytest.raises(names.InvalidName) as caught:
        names.parse(PATTERN, name)
    assert caught.value.violations[0].reason == "INVALID_NAME"


@pytest.mark.parametrize("name", ["", "projects", "projects/", "projects/A", "project/a", "agents/a"])
def test_names_without_a_project(name):
    with pytest.raises(names.InvalidName):
        names.project_of(name)


def test_digests():
    assert digest.sha256(b"") == "sha256:" + digest.sha256_hex(b"")
    stream = digest.Sha256Stream().read(io.BytesIO(b"abc" * 1_000_000))
    assert (stream.digest(), stream.size) == (digest.sha256(b"abc" * 1_000_000), 3_000_000)
    assert digest.hex_of(digest.sha256(b"x")) == digest.sha256_hex(b"x")
    for bad in ("", "sha512:" + "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64):
        with pytest.raises(ValueError):
            digest.hex_of(bad)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_times_survive(moment):
    assert parse_rfc3339(rfc3339(moment)) == moment


def test_times_are_utc_with_microseconds():
    assert rfc3339(datetime(2026, 1, 1, 13, 0, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T12:00:00.000000Z"
    for bad in ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000000+00:00", "2026-1-1T12:00:00.000000Z"):
        with pytest.raises(ValueError):
            parse_rfc3339(bad)
    with pytest.raises(ValueError):
        rfc3339(datetime(2026, 1, 1))  # noqa: DTZ001


class Gone(errors.FailedPrecondition):
    reason = "GONE"


def test_errors_survive_the_wire():
    error = Gone(
        "it is gone",
        metadata={"since": "today"},
        violations=[FieldViolation("projects/p", "ARCHIVED", "unarchive it")],
        retry_after=1.5,
        resource=("animus.dev/Run", "projects/p/runs/r"),
    )
    found = status.from_status(status.to_status(error, "catalog.animus", "req-1"))
    assert (found.code, found.reason, found.message, found.domain) == (
        "FAILED_PRECONDITION", "GONE", "it is gone", "catalog.animus",
    )  # fmt: skip
    assert (found.metadata, found.violations, found.retry_after, found.resource, found.request_id) == (
        error.metadata, error.violations, 1.5, error.resource, "req-1",
    )  # fmt: skip


def test_a_status_has_one_errorinfo_and_a_bounded_size():
    violations = [FieldViolation(f"f{n}" * 200, "R", "d" * 5000) for n in range(500)]
    made = status.to_status(
        errors.InvalidArgument("m" * 9000, violations=violations, metadata={f"k{n}": "v" * 999 for n in range(99)}),
        "catalog.animus",
    )
    assert sum(detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) for detail in made.details) == 1
    assert made.ByteSize() < 5 * 1024
    assert made.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_every_error_has_a_code_of_grpcs():
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, errors.AppError) and kind is not errors.AppError:
            assert grpc.StatusCode[kind.code] and kind.reason


def test_traces_follow_the_caller_or_start():
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    span = trace.start(header)
    assert span.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736" and span.span_id != "00f067aa0ba902b7"
    assert span.flags == "01"
    for bad in (None, "", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff" + header[2:], header[:-1], header + "\n"):
        assert trace.start(bad).trace_id != span.trace_id


@pytest.mark.parametrize("text", [None, "", "a b", "x" * 65, "a\nb", "-a", "é"])
def test_hostile_request_ids_are_replaced(text):
    assert trace.accept_request_id(text) != text and len(trace.accept_request_id(text)) == 32
    assert trace.accept_request_id("req-1") == "req-1"


def test_logs_are_json_lines_without_control_characters():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", ("a\n\x1b[31mb",), None)
    record.animus = {"name": "\x1b[2J", "message": "not this", "count": 3, "long": "x" * 10_000}
    with trace.scope("req-1", trace.start(None)):
        text = log.JsonFormatter().format(record)
    assert "\n" not in text and "\x1b" not in text
    line = json.loads(text)
    assert (line["request_id"], line["count"], line["message"]) == ("req-1", 3, "said a\n\x1b[31mb")
    assert len(line["long"]) < 5000 and len(line["trace_id"]) == 32


def test_derived_ids_repeat():
    outer = ids.RandomIds().uuid()
    assert ids.derived(outer, "plan") == ids.derived(outer, "plan") != ids.derived(outer, "decide")
    fake = FakeIds()
    assert fake.uuid() != fake.uuid() and len(fake.token(16)) == 32


def test_the_base_needs_nothing_that_only_servers_have():
    """What the agent imports must not pull in SQLAlchemy and the like, nor take long."""
    modules = "actor channel clock digest errors ids log names pki retry settings status tls trace".split()
    code = "import sys\n" + "".join(f"import animus_kit.{name}\n" for name in modules) + "print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "sqlalchemy",
        "psycopg",
        "alembic",
        "prometheus_client",
        "structlog",
        "jose",
        "protovalidate",
        "kubernetes",
    }
    assert not heavy & set(loaded)


def test_alembic_is_imported_only_to_migrate():
    code = "import sys, animus_kit.db.migrate, animus_kit.server.serve; print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_module_can_be_imported_first():
    """Modules that import one another in a circle work only in some orders."""
    from pathlib import Path

    root = Path(importlib.import_module("animus_kit").__file__).parent
    found = sorted(
        ".".join(("animus_kit", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in root.rglob("*.py")
    )
    code = """
import sys
for name in sys.argv[1:]:
    kept = {key: value for key, value in sys.modules.items() if not key.startswith("animus_kit")}
    for key in [key for key in sys.modules if key.startswith("animus_kit.")]:
        del sys.modules[key]
    sys.modules["prometheus_client"].REGISTRY._names_to_collectors.clear()
    __import__(name)
"""
    code = "import prometheus_client" + code
    subprocess.run([sys.executable, "-c", code, *found], check=True)
