"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    trust_domain: str
