"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from dataclasses import dataclass
from pathlib import Path

from animus_kit.server.wiring import ServerSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """What every server has. db_pool: a connection for each worker that reads, the writer, the follower, the readers."""

    db_pool: int = 24


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """dsn_file: of any role that may read the log."""

    dsn_file: Path
