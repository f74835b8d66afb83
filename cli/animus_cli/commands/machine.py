"""animus doctor"""

from __future__ import annotations

import platform
import shutil
import ssl
import sys
import urllib.request

import typer

from animus_cli import exits, show
from animus_cli.base import Stop, answer, command


def add(app: typer.Typer) -> None:
    command(app)(doctor)


def doctor() -> None:
    """Look at this machine and at the gateway. Exit status 3 when steps cannot run here."""
    from animus_cli.requirements import missing

    lacking = missing()
    checks = [
        ("python", sys.version_info >= (3, 11), platform.python_version()),
        ("git", shutil.which("git") is not None, shutil.which("git") or "code push needs it (apt-get install git)"),
        *(("sandbox", False, line.removeprefix("missing: ")) for line in lacking),
        *([] if lacking else [("sandbox", True, "runc, conmon, control groups, loop devices")]),
        _gateway(),
    ]
    value = {"checks": [{"name": name, "ok": good, "detail": detail} for name, good, detail in checks]}
    rows = [(name, "ok" if good else "no", detail) for name, good, detail in checks]
    answer(value, lambda: show.table(["check", "", "detail"], rows))
    if lacking:
        raise Stop(exits.REQUIREMENT, "")


def _gateway() -> tuple[str, bool, str]:
    from animus_client import ClientError, Config

    try:
        config = Config.discover()
        context = ssl.create_default_context(cafile=str(config.ca) if config.ca else None)
        with urllib.request.urlopen(f"{config.endpoint}/readyz", timeout=5, context=context):
            return "gateway", True, config.endpoint
    except (ClientError, OSError) as error:
        return "gateway", False, str(error)
