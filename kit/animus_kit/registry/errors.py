"""What may go wrong with a registry.

RegistryError
├── RegistryUnavailable    away, too slow, or failing: another try may succeed
├── NotInRegistry          it does not have the digest there
├── RegistryDenied         it wants other credentials than we have
└── RegistryMisbehaved     it breaks the protocol, or leads where nobody sent us
"""

from __future__ import annotations


class RegistryError(Exception):
    """`reason` is stable and upper-case; the message is for people and holds no credentials."""

    reason = "REGISTRY_ERROR"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class RegistryUnavailable(RegistryError):
    reason = "REGISTRY_UNAVAILABLE"


class NotInRegistry(RegistryError):
    reason = "REGISTRY_NOT_FOUND"


class RegistryDenied(RegistryError):
    reason = "REGISTRY_DENIED"


class RegistryMisbehaved(RegistryError):
    reason = "REGISTRY_MISBEHAVED"
