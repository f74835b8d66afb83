"""The systemd unit and its page: what a restart must not end, and that what they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from typer.main import get_command

from animus_agent.__main__ import _parser
from animus_agent.settings import Settings
from animus_cli.main import app

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "animus-agent.service"

# Each gives the unit a mount namespace, a device policy or a filter that its containers would inherit.
FORBIDDEN = {
    "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateUsers", "PrivateNetwork", "ProtectSystem", "ProtectHome",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
    "ProtectHostname", "ProtectProc", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "BindPaths",
    "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory", "MountFlags", "DynamicUser", "DevicePolicy",
    "DeviceAllow", "NoNewPrivileges", "SystemCallFilter", "RestrictNamespaces", "RestrictSUIDSGID", "LockPersonality",
    "MemoryDenyWriteExecute", "CapabilityBoundingSet", "MemoryMax", "CPUQuota", "OOMScoreAdjust", "UMask",
}  # fmt: skip


def sections() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[section][name].append(value)
    return found


def test_a_restart_of_the_unit_leaves_containers_running() -> None:
    service = sections()["Service"]
    assert service["KillMode"] == ["process"] and service["Delegate"] == ["yes"]
    assert service["RuntimeDirectoryPreserve"] == ["yes"] and service["Type"] == ["notify"]
    assert service["TasksMax"] == ["infinity"]
    assert not FORBIDDEN & set(service)


def test_what_no_restart_heals_is_not_restarted() -> None:
    assert sections()["Service"]["RestartPreventExitStatus"] == ["2 3 4"]


def test_the_unit_s_folders_are_the_agent_s_own() -> None:
    unit, defaults = sections(), Settings()
    assert unit["Service"]["StateDirectory"] == [defaults.agent_state_dir.name]
    assert unit["Service"]["RuntimeDirectory"] == [defaults.agent_run_dir.name]
    assert unit["Unit"]["ConditionPathExists"] == [str(defaults.agent_state_dir / "identity" / "agent.json")]
    assert unit["Service"]["ExecStart"][0].split()[1:] == ["run"]


def test_the_page_names_commands_that_exist() -> None:
    text = (FOLDER / "README.md").read_text()
    group = get_command(app).commands["agent"]  # type: ignore[attr-defined]
    named = set(re.findall(r"animus agent\s+([a-z][a-z-]+)", text))
    assert {"join", "drain", "uncordon", "revoke", "logs", "tokens", "revoke-token", "show"} <= named
    assert named <= set(group.commands)
    known = set(_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    assert set(re.findall(r"animus-agent (doctor|enroll|purge|run)\b", text)) <= known


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    # Where the agent is installed in this test.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/animus-agent/bin/animus-agent", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and UNIT.name not in done.stderr, done.stderr
