"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from dataclasses import dataclass

from animus_kit.server.common import AskingSettings


@dataclass(frozen=True, kw_only=True)
class Settings(AskingSettings):
    """stream_listen: host:port of the listener for tails and watches."""

    stream_listen: str


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """dsn: of any role that may read the log."""

    dsn: str
    log_level: str = "INFO"
