"""The command line: settings that do not fit are told by name, verify tells by its exit status."""

import json
import os

import psycopg
import pytest

from animus_audit.__main__ import main
from animus_audit.settings import Settings
from animus_kit.clock import SystemClock
from animus_kit.settings import SettingsError, load

from .events import Source


def test_verify(fresh_database, monkeypatch, capsys):
    from animus_audit.writer import Writer

    writer = Writer(fresh_database.engine("audit"), SystemClock(), "w")
    writer.start()
    source = Source("catalog")
    writer.submit(source.leaves(source.next(3))).result(10)
    writer.stop()
    monkeypatch.setenv("ANIMUS_DSN", fresh_database.dsn("audit"))
    assert main(["verify"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == 3 and report["problems"] == []
    with psycopg.connect(fresh_database.admin_dsn) as admin:
        admin.execute("DELETE FROM audit.events WHERE index = 1")
    assert main(["verify"]) == 1
    assert "index 1 is followed by 2" in json.loads(capsys.readouterr().out)["problems"]


def test_usage(capsys):
    assert main([]) == main(["fly"]) == 2
    assert "serve | migrate | restored | verify" in capsys.readouterr().err


def test_migrating_twice_changes_nothing(fresh_database, monkeypatch):
    monkeypatch.setenv("ANIMUS_MIGRATE_DSN", fresh_database.admin_dsn)
    assert main(["migrate"]) == main(["migrate"]) == 0


def test_settings_are_told_all_at_once_and_misspelt_ones_refused():
    with pytest.raises(SettingsError) as refused:
        load(Settings, {"ANIMUS_AUDIT_LISTEN": "x"})
    told = "\n".join(refused.value.problems)
    for name in ("ANIMUS_DSN", "ANIMUS_STREAM_LISTEN", "ANIMUS_POLICY_TARGET", "ANIMUS_AUDIT_LISTEN: no such setting"):
        assert name in told


def test_a_restored_database_gets_a_generation_of_its_own(fresh_database, monkeypatch, capsys):
    def generation() -> str:
        with psycopg.connect(fresh_database.admin_dsn) as admin:
            return admin.execute("SELECT generation::text FROM audit.outbox_source").fetchone()[0]

    before = generation()
    monkeypatch.setenv("ANIMUS_DSN", fresh_database.dsn("audit"))
    assert main(["restored"]) == 0
    assert generation() != before and generation() in capsys.readouterr().out


def test_unusable_settings_are_told_and_end_in_status_2(monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("ANIMUS_")]:
        monkeypatch.delenv(name)
    assert main(["serve"]) == 2
    assert "ANIMUS_DSN: must be set" in capsys.readouterr().err
