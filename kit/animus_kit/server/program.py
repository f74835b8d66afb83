"""A service as a program: `python -m animus_catalog serve | migrate | restored`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from animus_kit import log, settings
from animus_kit.db.migrate import upgrade
from animus_kit.db.sequencer import new_generation
from animus_kit.server.common import MigrateSettings


@dataclass(frozen=True)
class Command:
    """settings: the dataclass it is given, filled from the environment. act: returns the exit status, None for 0."""

    settings: type
    act: Callable[[Any], int | None]


@dataclass(frozen=True, kw_only=True)
class RestoredSettings:
    """dsn: of the service's own role."""

    dsn: str
    log_level: str = "INFO"


def run(doc: str | None, commands: Mapping[str, tuple[str, Command]], arguments: list[str]) -> int:
    """commands: by name, each with what its log lines name as the service. Exit status 2 for wrong use or settings."""
    if len(arguments) != 1 or arguments[0] not in commands:
        print(doc, file=sys.stderr)
        return 2
    name, command = commands[arguments[0]]
    try:
        it = settings.load(command.settings, os.environ)
    except settings.SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    log.configure(name, it.log_level)
    return command.act(it) or 0


def of_database(service: str) -> dict[str, tuple[str, Command]]:
    """The commands for what every service has, a schema and a place in the log.

    `restored` comes before the start of a service whose database was restored from a backup: the log may already have
    events beyond the backup, and their numbers must not be given to others.
    """

    def migrate(it: MigrateSettings) -> None:
        upgrade(it.migrate_dsn, f"animus_{service}")

    def restored(it: RestoredSettings) -> None:
        print(f"events of {service} go on under generation {new_generation(it.dsn)}")

    commands = {"migrate": Command(MigrateSettings, migrate), "restored": Command(RestoredSettings, restored)}
    return {name: (service, command) for name, command in commands.items()}
