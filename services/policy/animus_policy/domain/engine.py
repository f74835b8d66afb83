"""The policy set: loaded and validated once, then asked with one small slice of entities per request.

An evaluation error denies: Cedar skips a policy that fails, and a skipped forbid would otherwise allow.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import cedarpy

from .roles import INCLUDES, Principal, Role

PLATFORM_ADMIN = "platform/admin"
# The groups of permissions.toml, in the order of the schema's actions.
LEAST_ROLES = ("viewer", "editor", "approver", "auditor", "admin", "platform")
SUBMIT = "policy.decide.submit"
# Actions that are asked about with facts, which policies may read as context.
_DECISION_POINTS = frozenset({SUBMIT})


class PolicySetInvalid(Exception):
    """The policy set of this release does not hold together; the process must not start."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """policies: the ids of those that decided. errors: what went wrong, and so denied."""

    allowed: bool
    policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.policies + self.errors


@dataclass(frozen=True)
class PolicySet:
    """Policies, schema and permissions, as texts; handles are made from them once."""

    policies: str
    schema: str
    permissions: Mapping[str, str]

    @classmethod
    def load(cls) -> "PolicySet":
        """Reads and validates what the package carries. Raises PolicySetInvalid."""
        data = files("animus_policy.cedar")
        groups = tomllib.loads(data.joinpath("permissions.toml").read_text())
        policy_set = cls.of(
            data.joinpath("policies.cedar").read_text(), data.joinpath("schema.cedarschema").read_text(), groups
        )
        policy_set.validate()
        return policy_set

    @classmethod
    def of(cls, policies: str, base_schema: str, groups: Mapping[str, list[str]]) -> "PolicySet":
        if set(groups) != set(LEAST_ROLES):
            raise PolicySetInvalid(f"permissions are grouped under {sorted(groups)}, not {sorted(LEAST_ROLES)}")
        least: dict[str, str] = {}
        for role in LEAST_ROLES:
            for permission in groups[role]:
                if permission in least:
                    raise PolicySetInvalid(f"{permission} stands under {least[permission]} and {role}")
                least[permission] = role
        return cls(policies, base_schema + "".join(_action(p, least[p]) for p in sorted(least)), least)

    def validate(self) -> None:
        result = cedarpy.validate_policies(self.policies, self.schema)
        if not result.validation_passed:
            raise PolicySetInvalid("; ".join(str(e) for e in result.errors))
        if len(self.policy_digests) != len(self._handle):
            raise PolicySetInvalid("each policy needs an @id of its own")

    @cached_property
    def digest(self) -> str:
        """Over the exact texts: anything that could change a decision changes it."""
        parts = json.dumps([self.policies, self.schema], ensure_ascii=False).encode()
        return "sha256:" + hashlib.sha256(parts).hexdigest()

    @cached_property
    def policy_digests(self) -> dict[str, str]:
        """The digest of each policy's text, by its @id."""
        found = {}
        for policy in json.loads(cedarpy.policies_to_json_str(self.policies))["staticPolicies"].values():
            text = json.dumps(policy, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            policy_id = policy.get("annotations", {}).get("id")
            if policy_id:
                found[policy_id] = "sha256:" + hashlib.sha256(text).hexdigest()
        return found

    @cached_property
    def _handle(self) -> cedarpy.PolicySet:
        return cedarpy.PolicySet.from_str(self.policies)

    @cached_property
    def _schema_handle(self) -> cedarpy.Schema:
        return cedarpy.Schema.from_str(self.schema)

    def authorize(
        self,
        principal: Principal,
        held: Iterable[tuple[str, Role]],
        permission: str,
        project: str | None,
        *,
        platform_admins: frozenset[str] = frozenset(),
        context: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """Decides one request.

        held: the (member, role) pairs that bind the caller in this project.
        project: None for what belongs to no project.
        platform_admins: members, "user:…" and "group:…".
        """
        if permission not in self.permissions:
            return Verdict(False, errors=("unknown-permission",))
        resource = {"type": "Project", "id": project} if project else {"type": "Platform", "id": "animus"}
        request = {
            "principal": {"type": "User", "id": principal.subject},
            "action": {"type": "Action", "id": permission},
            "resource": resource,
            "context": dict(context or {}),
        }
        entities = _entities(principal, held, project, platform_admins)
        try:
            result = cedarpy.is_authorized(request, self._handle, entities, self._schema_handle)
        except ValueError as refused:
            return Verdict(False, errors=(f"error: {refused}",))
        diagnostics = result.diagnostics
        if diagnostics.errors:
            return Verdict(False, errors=tuple(f"error: {e}" for e in diagnostics.errors))
        ids = diagnostics.id_annotations_by_reason
        return Verdict(result.allowed, tuple(sorted(ids.get(reason, reason) for reason in diagnostics.reasons)))


def _action(permission: str, least: str) -> str:
    context = ", context: { factsDigest: String, resource: String }" if permission in _DECISION_POINTS else ""
    applies = f"principal: [User], resource: [Project, Platform]{context}"
    return f'\naction "{permission}" in [{least}] appliesTo {{ {applies} }};'


def _uid(kind: str, id_: str) -> dict[str, str]:
    return {"type": kind, "id": id_}


def _role(project: str, role: Role) -> dict[str, str]:
    return _uid("Role", f"{project}/{role.value}")


def _entities(
    principal: Principal, held: Iterable[tuple[str, Role]], project: str | None, platform_admins: frozenset[str]
) -> list[dict]:
    """The slice of the world that one request needs."""
    parents: dict[str, list[dict[str, str]]] = {member: [] for member in principal.members}
    entities: list[dict] = []
    if project:
        for member, role in held:
            if member in parents:
                parents[member].append(_role(project, role))
        roles = {f"{role.value}s": {"__entity": _role(project, role)} for role in Role}
        entities.append({"uid": _uid("Project", project), "attrs": roles, "parents": []})
        for role, included in INCLUDES.items():
            entities.append(
                {"uid": _role(project, role), "attrs": {}, "parents": [_role(project, r) for r in included]}
            )
    else:
        entities.append({"uid": _uid("Platform", "animus"), "attrs": {}, "parents": []})
    for member in principal.members & platform_admins:
        parents[member].append(_uid("Role", PLATFORM_ADMIN))
    groups = [_uid("Group", g) for g in sorted(principal.groups)]
    for group in principal.groups:
        entities.append({"uid": _uid("Group", group), "attrs": {}, "parents": parents[f"group:{group}"]})
    own = parents[f"user:{principal.subject}"]
    entities.append({"uid": _uid("User", principal.subject), "attrs": {}, "parents": own + groups})
    return entities
