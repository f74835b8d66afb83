"""Roles, members and bindings: who has which role in which project."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


class Role(enum.Enum):
    VIEWER = "viewer"
    EDITOR = "editor"
    APPROVER = "approver"
    ADMIN = "admin"
    AUDITOR = "auditor"


# Each role with those it includes directly.
INCLUDES: dict[Role, tuple[Role, ...]] = {
    Role.VIEWER: (),
    Role.EDITOR: (Role.VIEWER,),
    Role.APPROVER: (Role.VIEWER,),
    Role.AUDITOR: (Role.VIEWER,),
    Role.ADMIN: (Role.EDITOR, Role.APPROVER, Role.AUDITOR),
}


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """name: projects/{p}/roleBindings/{b}. member: "user:<subject>" or "group:<name>"."""

    name: str
    project: str
    member: str
    role: Role
    creator: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. groups: as the token states them."""

    subject: str
    groups: frozenset[str] = frozenset()

    @property
    def members(self) -> frozenset[str]:
        """Every member under which a binding may name this caller."""
        return frozenset({f"user:{self.subject}"} | {f"group:{g}" for g in self.groups})


def held(principal: Principal, bindings: Iterable[RoleBinding]) -> list[tuple[str, Role]]:
    """The (member, role) pairs among bindings that name the caller."""
    members = principal.members
    return [(b.member, b.role) for b in bindings if b.member in members]
