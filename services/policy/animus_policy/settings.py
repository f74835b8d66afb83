"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

import re
from dataclasses import dataclass

from animus_kit.server.common import ServiceSettings

_MEMBER = re.compile(r"(?:user|group):[^\x00-\x20\x7f]{1,256}")


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """policy_platform_admins: members who may do everything everywhere, "user:<subject>" or "group:<name>".

    audit_target: host:port of audit, where the relay of the outbox delivers. No handler calls it.
    """

    audit_target: str
    policy_platform_admins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for member in self.policy_platform_admins:
            if not _MEMBER.fullmatch(member):
                raise ValueError(
                    f"ANIMUS_POLICY_PLATFORM_ADMINS: {member!r} is neither user:<subject> nor group:<name>"
                )

    @property
    def platform_admins(self) -> frozenset[str]:
        return frozenset(self.policy_platform_admins)
